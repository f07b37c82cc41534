package wire

// Ports of the links between a runtime and its host. Each role has its own.
// The runtime listens on the session ports; the host listens on the others.
const (
	PortSession     = 5000 // HTTP and WebSocket, as clients speak it
	PortSessionTLS  = 5001 // the same with TLS that ends in the runtime
	PortEvidence    = 5002 // until the KEK was inspected: hello and attest of v2, with an empty policy, and no more
	PortBoot        = 5010 // boot message, birth document
	PortCredentials = 5011 // AWS credentials of the role
	PortStore       = 5012 // ciphertext of functions and keys, signed key sets
	PortDevNSM      = 5013 // development only: the launcher plays the hypervisor
	PortProxyBase   = 8000 // first of the TCP endpoints reached through the vsock proxy
	PortHeartbeat   = 9000 // AWS Nitro: launch counts as done after 0xB7 came back
)

// Modes of a boot.
const (
	ModeServe   = "serve"
	ModeKMSInit = "kms-init" // create the KEK, hand over its birth document, exit
)

// Boot is what the host answers to GET /v1/boot on PortBoot, as CBOR. Nothing
// in it is believed because the host said it: Config is attested and measured,
// Birth is verified, Routes only say where TLS connections go.
type Boot struct {
	Mode   string            `cbor:"mode"`
	Config []byte            `cbor:"config"` // exact bytes of Config
	Birth  []byte            `cbor:"birth"`  // birth document of the KEK, nil in kms-init
	Routes map[string]uint32 `cbor:"routes"` // "host:port" of a TCP endpoint to a vsock port of the proxy
	Init   *KEKRequest       `cbor:"init"`   // kms-init only
	Dev    *DevSettings      `cbor:"dev"`    // read by cape-runtime-dev alone
}

// KEKRequest asks a runtime to create a KEK.
type KEKRequest struct {
	Admins []string `cbor:"admins"` // ARNs that may describe the key and schedule its deletion
	PCR0   [][]byte `cbor:"pcr0"`   // allowed image hashes; empty: the publisher's certificate decides
	PCR8   [][]byte `cbor:"pcr8"`   // this epoch's and the next epoch's signing certificate
}

// DevSettings exist only for cape-runtime-dev: a KMS that is not AWS's.
type DevSettings struct {
	KMSEndpoint string `cbor:"kms_endpoint"` // https URL; its host:port stands in Routes
	STSEndpoint string `cbor:"sts_endpoint"`
	CA          []byte `cbor:"ca"` // PEM of the root that signed those endpoints
}

// Birth is what the runtime posts to /v1/birth on PortBoot in kms-init, as
// CBOR. Document's user data is the CBOR of BirthClaim.
type Birth struct {
	KMS      string `cbor:"kms"`
	Policy   []byte `cbor:"policy"`
	Document []byte `cbor:"document"`
}

// BirthClaim is the user data of a birth document.
type BirthClaim struct {
	V      int    `cbor:"v"`
	Use    string `cbor:"use"` // "kek"
	KMS    string `cbor:"kms"`
	Policy []byte `cbor:"policy"` // SHA-256 of the exact policy text
}

// Credentials is the JSON of GET /v1/credentials on PortCredentials: the form
// of the instance metadata service.
type Credentials struct {
	AccessKeyID     string `json:"AccessKeyId"`
	SecretAccessKey string `json:"SecretAccessKey"`
	Token           string `json:"Token"`
	Expiration      string `json:"Expiration"` // RFC 3339, empty: does not expire
}

// The store link (PortStore) is HTTP/1.1:
//
//	GET  /v1/functions/{id}             StoredFunction head, then ciphertext
//	GET  /v1/names/{user}/{name}        the same, for the newest function of that name
//	PUT  /v1/functions/{id}             body as above; 201, or an error
//	GET  /v1/keys?iss=&sub=             StoredKey (CBOR) of a user without an account
//	GET  /v1/keys?acct=                 StoredKey of an account, in hexadecimal
//	GET  /v1/users/{user}/key           StoredKey of the user with that name, without an account
//	GET  /v1/users/{user}/key?account=1 the same, or that of the user's account if there is one
//	PUT  /v1/keys                       StoredKey; 201, or 200 with the one that was there first
//	GET  /v1/jwks?iss=                  compact JWS over a JWKS
//
// A head is u32be(len) || CBOR, at most MaxRecord bytes. Errors are
// ErrorBody; 404 means that there is none. The runtime verifies all it gets.

// StoredFunction is the head of a stored function.
type StoredFunction struct {
	ID       string `cbor:"id"`
	Manifest []byte `cbor:"manifest"`
	Sig      []byte `cbor:"sig"`      // nil: written by the runtime for a v1 client
	Key      []byte `cbor:"key"`      // the account's Ed25519 public key, 32 bytes; nil without Sig
	Wrapped  []byte `cbor:"wrapped"`  // CiphertextBlob of the function's DEK
	KEK      string `cbor:"kek"`      // ARN of the key that wrapped it
	Username string `cbor:"username"` // on PUT: as the deployer's token says; routing only
	Size     uint64 `cbor:"size"`     // bytes of the plaintext zip; a hint for listings
}

// StoredKey is a wrapped Cape Key pair.
type StoredKey struct {
	Owner    Subject `cbor:"owner"`
	Acct     []byte  `cbor:"acct"` // nil: the legacy key of (iss, sub)
	Username string  `cbor:"username"`
	Wrapped  []byte  `cbor:"wrapped"`
	KEK      string  `cbor:"kek"`
}

// Audience must stand in the aud of every token.
const Audience = "cape-api"

// ClaimUsername is the claim of access tokens that names the user.
const ClaimUsername = "https://capeprivacy.com/username"
