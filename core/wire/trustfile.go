package wire

// TrustFile is trust.json in a client's configuration directory; all clients
// share it. Its format is specified in spec/trust-file.md.
type TrustFile struct {
	Version int                     `json:"version"` // 1
	Origins map[string]*TrustOrigin `json:"origins"` // "https://host:port", as the user named it
}

// TrustOrigin is what a user accepted for one origin. Hashes are lower hex.
type TrustOrigin struct {
	Root        string                   `json:"root"`                  // SHA-256 of the root's DER
	RootDER     []byte                   `json:"root_der,omitempty"`    // a development root itself; absent for AWS's
	Development bool                     `json:"development,omitempty"` // Root is not AWS's
	PCRs        map[string][]string      `json:"pcrs"`                  // index to accepted values: 0, 1, 2, 8, 16
	KeyPolicy   string                   `json:"key_policy,omitempty"`  // SHA-256 of the KMS key policy
	KMS         string                   `json:"kms,omitempty"`         // ARN of the KEK
	Trust       []byte                   `json:"trust,omitempty"`       // encoding of the runtime's Trust, which PCR16 measures
	Added       string                   `json:"added"`                 // RFC 3339
	Functions   map[string]string        `json:"functions,omitempty"`   // function id to checksum
	Names       map[string]*TrustedNamed `json:"names,omitempty"`       // "user/name"
	Accounts    map[string]string        `json:"accounts,omitempty"`    // username to account
}

// UnsignedAccount stands in TrustedNamed.Account for a function that no account signed.
const UnsignedAccount = "none"

// TrustedNamed is what a name meant when it was last used. Account and Seq are known
// once a sealed session told them.
type TrustedNamed struct {
	ID       string `json:"id,omitempty"`
	Checksum string `json:"checksum"`
	Account  string `json:"account,omitempty"` // lower hex, or UnsignedAccount
	Seq      uint64 `json:"seq,omitempty"`
}
