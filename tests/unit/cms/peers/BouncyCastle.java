// Reads and verifies signed orders with BouncyCastle: java -cp JARS BouncyCastle.java SIGNED.p7m...
// Prints, for each file, the object identifiers of the signed attributes, or "none"; ends with 1 if one is not right.

import java.nio.file.Files;
import java.nio.file.Path;
import java.security.Security;
import java.util.Map;
import java.util.TreeSet;
import org.bouncycastle.asn1.cms.AttributeTable;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cms.CMSSignedData;
import org.bouncycastle.cms.SignerInformation;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.jce.provider.BouncyCastleProvider;

public class BouncyCastle {
  public static void main(String[] files) throws Exception {
    Security.addProvider(new BouncyCastleProvider());
    for (String file : files) {
      CMSSignedData signed = new CMSSignedData(Files.readAllBytes(Path.of(file)));
      SignerInformation signer = signed.getSignerInfos().iterator().next();
      X509CertificateHolder holder =
          (X509CertificateHolder) signed.getCertificates().getMatches(signer.getSID()).iterator().next();
      if (!signer.verify(new JcaSimpleSignerInfoVerifierBuilder().setProvider("BC").build(holder))) {
        System.exit(1);
      }
      AttributeTable table = signer.getSignedAttributes();
      TreeSet<String> names = new TreeSet<>();
      if (table != null) {
        for (Object name : ((Map<?, ?>) table.toHashtable()).keySet()) {
          names.add(name.toString());
        }
      }
      System.out.println(names.isEmpty() ? "none" : String.join(" ", names));
    }
  }
}
