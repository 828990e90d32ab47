"""Why a token is not recognized, and what to do about it: from the USB plug to a key that can sign.

``examine`` walks all layers and names one cause first. The causes, ``A1`` to ``H76``, are described in
``docs/diagnosis.md``; nothing here spends a PIN try or changes anything.
"""
