package vectors

// The kinds of scenario that spec/vectors/README.md describes.
const (
	KindFrame     = "session-v1-frame"
	KindPublicKey = "session-v1-public-key"
	KindChecksums = "session-v1-checksums"
	KindSignature = "session-v1-signature"
	KindOld       = "envelope-old"
	KindV2        = "envelope-v2"
	KindZip       = "zip"
	KindSerdio    = "serdio"
)

// Plaintext tells what came out, whatever its size.
type Plaintext struct {
	Size   int `json:"plaintext_size"`
	SHA256 Hex `json:"plaintext_sha256_hex"`
}

// FrameInput is a frame and the X25519 private key that it is opened with.
type FrameInput struct {
	Private Hex    `json:"private_hex"`
	Frame   []byte `json:"frame_b64"`
}

// FrameOutput is what the frame held.
type FrameOutput struct {
	Plaintext []byte `json:"plaintext_b64"`
}

// PublicKeyInput is what a client is asked to seal to.
type PublicKeyInput struct {
	Public Hex `json:"public_hex"`
}

// PublicKeyOutput says nothing: sealing succeeds.
type PublicKeyOutput struct{}

// Checksums are those of one run.
type Checksums struct {
	Input    Hex `json:"input_hex"`
	Function Hex `json:"function_hex"`
	Output   Hex `json:"output_hex"`
}

// ChecksumsOutput is what is signed.
type ChecksumsOutput struct {
	Bytes  string `json:"signed_text"`
	SHA256 Hex    `json:"sha256_hex"`
}

// SignatureInput is what a client verifies.
type SignatureInput struct {
	Public    []byte    `json:"public_pkcs1_b64"`
	Checksums Checksums `json:"checksums"`
	Signature []byte    `json:"signature_b64"`
}

// SignatureOutput says nothing: the signature holds.
type SignatureOutput struct{}

// OldInput is an envelope of the old form: "raw" or "text".
type OldInput struct {
	Form string `json:"form"`
	Key  string `json:"key"`
	Data []byte `json:"data_b64"`
}

// V2Input is a cape:v2 envelope of either form, the keys that its reader
// holds, and the recipients that it accepts: null accepts all.
type V2Input struct {
	Keys   []string `json:"keys"`
	Accept *[]To    `json:"accept"`
	Data   []byte   `json:"data_b64"`
}

// V2Output is what the envelope names and holds.
type V2Output struct {
	To To `json:"to"`
	Plaintext
}

// To is a recipient; all three absent is "to": null.
type To struct {
	Function Hex    `json:"fn_hex,omitempty"`
	Account  Hex    `json:"acct_hex,omitempty"`
	Name     string `json:"name,omitempty"`
	Seq      uint64 `json:"seq,omitempty"`
}

// ZipInput is a deploy folder and the name of the zip's top folder. The
// limits are absent where they are the format's own.
type ZipInput struct {
	Top      string `json:"top"`
	MaxBytes int64  `json:"max_bytes,omitempty"`
	MaxFiles int    `json:"max_files,omitempty"`
	Files    []File `json:"files"`
}

// File is a file (Content), a link (Link) or a folder of its own (Folder).
type File struct {
	Path    string  `json:"path"`
	Content *[]byte `json:"content_b64,omitempty"`
	Link    string  `json:"link,omitempty"`
	Folder  bool    `json:"folder,omitempty"`
}

// ZipOutput is the zip: what it is, and what it is called.
type ZipOutput struct {
	Zip    []byte `json:"zip_b64"`
	SHA256 Hex    `json:"sha256_hex"`
}

// SerdioInput is a byte string to decode.
type SerdioInput struct {
	Bytes Hex `json:"bytes_hex"`
}

// SerdioOutput is the call that it stands for. Encoding the call gives the
// same bytes.
type SerdioOutput struct {
	Call   string           `json:"call"` // as Python would write it, for people
	Args   []Value          `json:"args"`
	Kwargs map[string]Value `json:"kwargs,omitempty"`
}

// Value is one Python value: exactly one field is set.
type Value struct {
	Int       *int64      `json:"int,omitempty"`
	Float     *float64    `json:"float,omitempty"`
	Str       *string     `json:"str,omitempty"`
	Bytes     *Hex        `json:"bytes_hex,omitempty"`
	Bool      *bool       `json:"bool,omitempty"`
	None      bool        `json:"none,omitempty"`
	List      *[]Value    `json:"list,omitempty"`
	Tuple     *[]Value    `json:"tuple,omitempty"`
	Set       *[]Value    `json:"set,omitempty"`
	Frozenset *[]Value    `json:"frozenset,omitempty"`
	Complex   *[2]float64 `json:"complex,omitempty"`
}
