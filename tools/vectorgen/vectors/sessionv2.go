package vectors

// The kinds of session v2, its accounts, receipts and configuration.
const (
	KindMessage           = "session-v2-message"
	KindAttestV2          = "session-v2-attest"
	KindOpen              = "session-v2-open"
	KindKeySchedule       = "session-v2-keys"
	KindRecords           = "session-v2-records"
	KindManifest          = "manifest"
	KindManifestSignature = "manifest-signature"
	KindConfig            = "config"
	KindReceipt           = "receipt"
)

// MessageInput is an encoded message and what it is to be read as: a rule of
// session-v2.cddl. Bodies of records come without their type.
type MessageInput struct {
	Type  string `json:"type"`
	Bytes []byte `json:"message_b64"`
}

// MessageOutput is what the message says. Byte strings are lower hex under
// their key with _hex; encoding it gives the message's bytes.
type MessageOutput struct {
	Value any `json:"value"`
}

// AttestV2Input is what a client sent and received, and whom it believes.
type AttestV2Input struct {
	Hello  []byte   `json:"hello_b64"`
	Attest []byte   `json:"attest_b64"`
	Roots  [][]byte `json:"roots_b64"`
	At     string   `json:"at"`
	PCR0   Hex      `json:"pcr0_hex"`
}

// AttestV2Output is what a client has verified then.
type AttestV2Output struct {
	KMS        string `json:"kms"`
	PCR16      Hex    `json:"pcr16_hex"`
	Policy     Hex    `json:"policy_sha256_hex"`
	TLS        Hex    `json:"tls_hex"`
	ReceiptKey Hex    `json:"receipt_key_hex"`
}

// OpenInput is an open frame, and what the enclave has to open it.
type OpenInput struct {
	KEM     int    `json:"kem"`
	Private Hex    `json:"private_hex"` // as RFC 9180 serializes it: 32 bytes
	Hello   []byte `json:"hello_b64"`   // any bytes: only the transcript depends on them
	Attest  []byte `json:"attest_b64"`
	Frame   []byte `json:"frame_b64"`
}

// OpenOutput is what the frame held. Acct is the proven account.
type OpenOutput struct {
	Transcript Hex    `json:"transcript_hex"`
	Secret     Hex    `json:"secret_hex"`
	Token      string `json:"token"`
	Acct       Hex    `json:"acct_hex"`
	Grant      Hex    `json:"grant_hex"`
	ExpectFn   Hex    `json:"expect_fn_hex"`
	ExpectAcct Hex    `json:"expect_acct_hex"`
	ExpectSeq  *int   `json:"expect_seq"`
}

// KeyScheduleInput is what a session's keys are made of.
type KeyScheduleInput struct {
	Transcript Hex `json:"transcript_hex"`
	Secret     Hex `json:"secret_hex"`
}

// KeyScheduleOutput are the keys.
type KeyScheduleOutput struct {
	C2EKey Hex `json:"c2e_key_hex"`
	C2EIV  Hex `json:"c2e_iv_hex"`
	E2CKey Hex `json:"e2c_key_hex"`
	E2CIV  Hex `json:"e2c_iv_hex"`
}

// RecordsInput are the frames that one side received, in this order.
type RecordsInput struct {
	KeyScheduleInput
	Direction string   `json:"direction"` // "c2e" or "e2c"
	Frames    [][]byte `json:"frames_b64"`
}

// RecordsOutput are the records in them.
type RecordsOutput struct {
	Records [][]byte `json:"records_b64"`
}

// ManifestOutput is what a manifest says and how it is called.
type ManifestOutput struct {
	ID    string `json:"id"`
	Value any    `json:"value"`
}

// ManifestInput is an encoded manifest.
type ManifestInput struct {
	Manifest []byte `json:"manifest_b64"`
}

// ManifestSignatureInput is a manifest, its signature, and the account key
// that it came with.
type ManifestSignatureInput struct {
	Manifest  []byte `json:"manifest_b64"`
	Signature Hex    `json:"sig_hex"`
	Key       Hex    `json:"key_hex"`
}

// ManifestSignatureOutput is whose it is.
type ManifestSignatureOutput struct {
	Acct Hex    `json:"acct_hex"`
	ID   string `json:"id"`
}

// ConfigInput is an encoded configuration.
type ConfigInput struct {
	Config []byte `json:"config_b64"`
}

// ConfigOutput is what it says and what is measured of it.
type ConfigOutput struct {
	Value       any `json:"value"`
	Measurement Hex `json:"measurement_hex"`
	PCR16       Hex `json:"pcr16_hex"`
}

// ReceiptInput is a receipt, what the verified document of its session says,
// and what is to be opened with which keys.
type ReceiptInput struct {
	Receipt []byte `json:"receipt_b64"`
	Key     Hex    `json:"key_hex"`      // raw Ed25519 key of the document
	Doc     Hex    `json:"doc_hex"`      // SHA-256 of the document
	Nonce   Hex    `json:"nonce_hex"`    // of the document
	InKey   Hex    `json:"open_in_hex"`  // the openings
	OutKey  Hex    `json:"open_out_hex"` //
	Input   []byte `json:"input_b64"`
	Output  []byte `json:"output_b64"`
}

// ReceiptOutput is what the receipt says, its hash, and whether the openings
// open it for these bytes.
type ReceiptOutput struct {
	Value       any  `json:"value"`
	Hash        Hex  `json:"hash_hex"`
	InputOpens  bool `json:"input_opens"`
	OutputOpens bool `json:"output_opens"`
}
