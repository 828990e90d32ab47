/*
 * The interface of PKCS#11 v2.40 as faulty.c needs it: the shapes that it looks into, and the list of all functions
 * from which the wrappers, their numbers and their names are made. Structures it only hands on stay void pointers.
 */
#ifndef FAULTY_FUNCTIONS_H
#define FAULTY_FUNCTIONS_H

typedef unsigned char CK_BYTE;
typedef unsigned long CK_ULONG;
typedef CK_ULONG CK_RV;

enum {
    CKR_OK = 0x0, CKR_GENERAL_ERROR = 0x5, CKR_ARGUMENTS_BAD = 0x7, CKR_CANT_LOCK = 0xA,
    CKR_FUNCTION_NOT_SUPPORTED = 0x54, CKR_MECHANISM_INVALID = 0x70, CKR_BUFFER_TOO_SMALL = 0x150,
    CKR_LIBRARY_LOAD_FAILED = 0x1B7
};
enum { CKF_OS_LOCKING_OK = 0x2, CKF_SIGN = 0x800, CKF_VERIFY = 0x2000 };

struct init_args { CK_RV (*mutex[4])(void *); CK_ULONG flags; void *reserved; };
struct mechanism { CK_ULONG type; void *parameter; CK_ULONG parameter_n; };
struct mechanism_info { CK_ULONG least_bits, most_bits, flags; };
struct attribute { CK_ULONG type; void *value; CK_ULONG value_n; };
struct token_info {
    CK_BYTE label[32], manufacturer[32], model[16], serial[16];
    CK_ULONG flags, sessions[4], pin_max, pin_min, memory[4];
    CK_BYTE versions[4], time[16];
};
typedef CK_RV (*notify_t)(CK_ULONG session, CK_ULONG event, void *application);
struct function_list;

/* What the lines of the record say of a call's arguments. A parameter is recorded under its own name. */
#define NUM(name) put_number(#name, name);
#define DATA put_data(in, in_n);
#define PIN(name) put_pin(#name, name, name##_n);
#define MECHANISM if (mechanism) put_number("mechanism", mechanism->type);
#define TYPES(key, list) put_types(key, list, list##_n);
#define LIST(array, count) call.out_n = (count); put(",\"out_null\":%s", (array) ? "false" : "true");
#define OUT(buffer, size) call.out = (buffer); LIST(buffer, size)
#define HANDLE(key, where) call.handle_key = (key); call.handle = (where);

/* Shapes that several functions share. F(name, parameters, arguments, recorded, before the real call, after it). */
#define SESSION(F, name) F(name, (CK_ULONG session), (session), NUM(session), , )
#define KEYED(F, name) \
    F(name, (CK_ULONG session, struct mechanism *mechanism, CK_ULONG key), (session, mechanism, key), \
      NUM(session) MECHANISM NUM(key), , )
#define FEED(F, name) \
    F(name, (CK_ULONG session, CK_BYTE *in, CK_ULONG in_n), (session, in, in_n), NUM(session) DATA, , )
#define DRAIN(F, name) \
    F(name, (CK_ULONG session, CK_BYTE *out, CK_ULONG *out_n), (session, out, out_n), NUM(session) OUT(out, out_n), , )
#define THROUGH(F, name) \
    F(name, (CK_ULONG session, CK_BYTE *in, CK_ULONG in_n, CK_BYTE *out, CK_ULONG *out_n), \
      (session, in, in_n, out, out_n), NUM(session) DATA OUT(out, out_n), , )
#define ATTRIBUTES(F, name) \
    F(name, (CK_ULONG session, CK_ULONG object, struct attribute *wanted, CK_ULONG wanted_n), \
      (session, object, wanted, wanted_n), NUM(session) NUM(object) TYPES("attributes", wanted), , )

/* All functions in the order of CK_FUNCTION_LIST. GET is the one that this module exports, written by hand. */
#define FUNCTIONS(F, GET) \
    F(C_Initialize, (struct init_args *init), (init), put_flags(init);, refuse_locking(&call, init);, ) \
    F(C_Finalize, (void *reserved), (reserved), , , ) \
    F(C_GetInfo, (void *info), (info), , , ) \
    GET(C_GetFunctionList, (struct function_list **list), (list), , , ) \
    F(C_GetSlotList, (CK_BYTE present, CK_ULONG *slots, CK_ULONG *count), (present, slots, count), \
      LIST(slots, count), , ) \
    F(C_GetSlotInfo, (CK_ULONG slot, void *info), (slot, info), NUM(slot), , ) \
    F(C_GetTokenInfo, (CK_ULONG slot, struct token_info *info), (slot, info), NUM(slot), , change_token(&call, info);) \
    F(C_GetMechanismList, (CK_ULONG slot, CK_ULONG *types, CK_ULONG *count), (slot, types, count), \
      NUM(slot) LIST(types, count), filter_mechanisms(&call, slot, types, count);, ) \
    F(C_GetMechanismInfo, (CK_ULONG slot, CK_ULONG mechanism, struct mechanism_info *info), (slot, mechanism, info), \
      NUM(slot) NUM(mechanism), hide_mechanism(&call, mechanism);, add_mechanism(&call, mechanism, info);) \
    F(C_InitToken, (CK_ULONG slot, CK_BYTE *pin, CK_ULONG pin_n, CK_BYTE *label), (slot, pin, pin_n, label), \
      NUM(slot) PIN(pin), type_pin(&call, &pin, &pin_n, &call.plan.pin);, ) \
    F(C_InitPIN, (CK_ULONG session, CK_BYTE *pin, CK_ULONG pin_n), (session, pin, pin_n), NUM(session) PIN(pin), \
      type_pin(&call, &pin, &pin_n, new_pin_of(&call));, ) \
    F(C_SetPIN, (CK_ULONG session, CK_BYTE *pin, CK_ULONG pin_n, CK_BYTE *new_pin, CK_ULONG new_pin_n), \
      (session, pin, pin_n, new_pin, new_pin_n), NUM(session) PIN(pin) PIN(new_pin), \
      type_pin(&call, &pin, &pin_n, &call.plan.pin); type_pin(&call, &new_pin, &new_pin_n, new_pin_of(&call));, ) \
    F(C_OpenSession, (CK_ULONG slot, CK_ULONG flags, void *application, notify_t notify, CK_ULONG *session), \
      (slot, flags, application, notify, session), NUM(slot) NUM(flags) HANDLE("session", session), , ) \
    SESSION(F, C_CloseSession) \
    F(C_CloseAllSessions, (CK_ULONG slot), (slot), NUM(slot), , ) \
    F(C_GetSessionInfo, (CK_ULONG session, void *info), (session, info), NUM(session), , ) \
    DRAIN(F, C_GetOperationState) \
    F(C_SetOperationState, (CK_ULONG session, CK_BYTE *state, CK_ULONG state_n, CK_ULONG cipher, CK_ULONG key), \
      (session, state, state_n, cipher, key), NUM(session) NUM(key), , ) \
    F(C_Login, (CK_ULONG session, CK_ULONG user_type, CK_BYTE *pin, CK_ULONG pin_n), (session, user_type, pin, pin_n), \
      NUM(session) NUM(user_type) PIN(pin), type_pin(&call, &pin, &pin_n, &call.plan.pin);, ) \
    SESSION(F, C_Logout) \
    F(C_CreateObject, (CK_ULONG session, struct attribute *values, CK_ULONG values_n, CK_ULONG *object), \
      (session, values, values_n, object), NUM(session) TYPES("attributes", values) HANDLE("object", object), , ) \
    F(C_CopyObject, (CK_ULONG session, CK_ULONG object, struct attribute *values, CK_ULONG values_n, CK_ULONG *copy), \
      (session, object, values, values_n, copy), NUM(session) NUM(object) TYPES("attributes", values), , ) \
    F(C_DestroyObject, (CK_ULONG session, CK_ULONG object), (session, object), NUM(session) NUM(object), , ) \
    F(C_GetObjectSize, (CK_ULONG session, CK_ULONG object, CK_ULONG *size), (session, object, size), \
      NUM(session) NUM(object), , ) \
    ATTRIBUTES(F, C_GetAttributeValue) \
    ATTRIBUTES(F, C_SetAttributeValue) \
    F(C_FindObjectsInit, (CK_ULONG session, struct attribute *values, CK_ULONG values_n), (session, values, values_n), \
      NUM(session) TYPES("attributes", values), , ) \
    F(C_FindObjects, (CK_ULONG session, CK_ULONG *objects, CK_ULONG most, CK_ULONG *count), \
      (session, objects, most, count), NUM(session) LIST(objects, count), , ) \
    SESSION(F, C_FindObjectsFinal) \
    KEYED(F, C_EncryptInit) THROUGH(F, C_Encrypt) THROUGH(F, C_EncryptUpdate) DRAIN(F, C_EncryptFinal) \
    KEYED(F, C_DecryptInit) THROUGH(F, C_Decrypt) THROUGH(F, C_DecryptUpdate) DRAIN(F, C_DecryptFinal) \
    F(C_DigestInit, (CK_ULONG session, struct mechanism *mechanism), (session, mechanism), \
      NUM(session) MECHANISM, , ) \
    THROUGH(F, C_Digest) FEED(F, C_DigestUpdate) \
    F(C_DigestKey, (CK_ULONG session, CK_ULONG key), (session, key), NUM(session) NUM(key), , ) \
    DRAIN(F, C_DigestFinal) \
    KEYED(F, C_SignInit) THROUGH(F, C_Sign) FEED(F, C_SignUpdate) DRAIN(F, C_SignFinal) \
    KEYED(F, C_SignRecoverInit) THROUGH(F, C_SignRecover) \
    KEYED(F, C_VerifyInit) \
    F(C_Verify, (CK_ULONG session, CK_BYTE *in, CK_ULONG in_n, CK_BYTE *signature, CK_ULONG signature_n), \
      (session, in, in_n, signature, signature_n), NUM(session) DATA, , ) \
    FEED(F, C_VerifyUpdate) \
    F(C_VerifyFinal, (CK_ULONG session, CK_BYTE *signature, CK_ULONG signature_n), (session, signature, signature_n), \
      NUM(session), , ) \
    KEYED(F, C_VerifyRecoverInit) THROUGH(F, C_VerifyRecover) \
    THROUGH(F, C_DigestEncryptUpdate) THROUGH(F, C_DecryptDigestUpdate) \
    THROUGH(F, C_SignEncryptUpdate) THROUGH(F, C_DecryptVerifyUpdate) \
    F(C_GenerateKey, (CK_ULONG session, struct mechanism *mechanism, struct attribute *values, CK_ULONG values_n, \
      CK_ULONG *key), (session, mechanism, values, values_n, key), \
      NUM(session) MECHANISM TYPES("attributes", values) HANDLE("key", key), , ) \
    F(C_GenerateKeyPair, (CK_ULONG session, struct mechanism *mechanism, struct attribute *public, CK_ULONG public_n, \
      struct attribute *private, CK_ULONG private_n, CK_ULONG *public_key, CK_ULONG *key), \
      (session, mechanism, public, public_n, private, private_n, public_key, key), NUM(session) MECHANISM \
      TYPES("public_attributes", public) TYPES("private_attributes", private) HANDLE("key", key), , ) \
    F(C_WrapKey, (CK_ULONG session, struct mechanism *mechanism, CK_ULONG with, CK_ULONG key, CK_BYTE *out, \
      CK_ULONG *out_n), (session, mechanism, with, key, out, out_n), \
      NUM(session) MECHANISM NUM(key) OUT(out, out_n), , ) \
    F(C_UnwrapKey, (CK_ULONG session, struct mechanism *mechanism, CK_ULONG with, CK_BYTE *in, CK_ULONG in_n, \
      struct attribute *values, CK_ULONG values_n, CK_ULONG *key), \
      (session, mechanism, with, in, in_n, values, values_n, key), \
      NUM(session) MECHANISM TYPES("attributes", values) HANDLE("key", key), , ) \
    F(C_DeriveKey, (CK_ULONG session, struct mechanism *mechanism, CK_ULONG base, struct attribute *values, \
      CK_ULONG values_n, CK_ULONG *key), (session, mechanism, base, values, values_n, key), \
      NUM(session) MECHANISM TYPES("attributes", values) HANDLE("key", key), , ) \
    FEED(F, C_SeedRandom) \
    F(C_GenerateRandom, (CK_ULONG session, CK_BYTE *random, CK_ULONG random_n), (session, random, random_n), \
      NUM(session), , ) \
    SESSION(F, C_GetFunctionStatus) \
    SESSION(F, C_CancelFunction) \
    F(C_WaitForSlotEvent, (CK_ULONG flags, CK_ULONG *slot, void *reserved), (flags, slot, reserved), \
      NUM(flags) HANDLE("slot", slot), , )

#define AS_POINTER(name, parameters, ...) CK_RV (*name) parameters;
#define AS_NUMBER(name, ...) FN_##name,
#define AS_TEXT(name, ...) #name,
#define AS_ENTRY(name, ...) name,

struct function_list { CK_BYTE version[2]; FUNCTIONS(AS_POINTER, AS_POINTER) };
enum function { FUNCTIONS(AS_NUMBER, AS_NUMBER) FUNCTION_COUNT };
static const char *const NAMES[] = { FUNCTIONS(AS_TEXT, AS_TEXT) };

#endif
