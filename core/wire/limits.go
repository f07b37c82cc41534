package wire

import "time"

// Sizes in bytes unless the name says otherwise.
const (
	// MaxFunctionZip bounds a deploy: the figure of the original clients.
	MaxFunctionZip = 1_000_000_000
	// MaxFunctionTree bounds an unpacked function, against zip bombs.
	MaxFunctionTree = 4_000_000_000
	// MaxFunctionFiles bounds the entries of a function's zip.
	MaxFunctionFiles = 100_000
	// MaxFunctionDirectory bounds a zip's central directory: names are held several times while it is judged. It
	// fits MaxFunctionFiles files with paths of 200 bytes.
	MaxFunctionDirectory = 24 << 20
	// MaxPathBytes bounds one path inside a function.
	MaxPathBytes = 1024
	// MaxInput and MaxOutput bound one invocation.
	MaxInput  = 1 << 30
	MaxOutput = 1 << 30
	// MaxHandlerSource bounds app.py alone: it is parsed before it is accepted.
	MaxHandlerSource = 8 << 20

	// MaxTextFrame bounds a v1 JSON text frame from a client.
	MaxTextFrame = 64 << 10
	// SealOverhead is what HPKE (32 + 16) adds to a v1 binary frame.
	SealOverhead = 48
	// EnvelopeOverhead bounds what a Cape envelope adds, prefix included.
	EnvelopeOverhead = 1024

	// MinNonce and MaxNonce bound a client's nonce; AWS's own limit is 512.
	MinNonce = 8
	MaxNonce = 512
	// MaxUserData is AWS's published limit of the document's user data; real
	// documents carry up to 1,024, so readers accept that.
	MaxUserData = 1024
	// MaxDocument bounds an attestation document.
	MaxDocument = 16 << 10

	// MaxToken bounds a JWT.
	MaxToken = 8 << 10
	// MaxHeader bounds an HTTP request's header on every listener.
	MaxHeader = 32 << 10
	// MaxManifest, MaxConfig, MaxPolicy and MaxJWKS bound what the host hands the runtime.
	MaxManifest = 4 << 10
	MaxConfig   = 64 << 10
	MaxPolicy   = 32 << 10
	MaxJWKS     = 256 << 10
	// MaxCertificates bounds the PEM chain that the host has made for the enclave's TLS key.
	MaxCertificates = 32 << 10
	// MaxCSR bounds the enclave's certificate request: a P-256 key and a signature.
	MaxCSR = 4 << 10
	// MaxWrapped bounds a CiphertextBlob of KMS (6,144 in its API).
	MaxWrapped = 6144
	// MaxRecord bounds the CBOR head of a stored function or key.
	MaxRecord = 32 << 10
	// MaxUsername and MaxFunctionName bound names, in bytes of UTF-8.
	MaxUsername     = 64
	MaxFunctionName = 128
	// MaxErrorText bounds an error's text, tracebacks included.
	MaxErrorText = 16 << 10

	// MaxEIF bounds an enclave image; the largest that Nitro starts have about 2 GB.
	MaxEIF = 4 << 30
	// MaxEIFKernel, MaxEIFMetadata and MaxEIFSignature bound sections of one: far
	// above what a kernel, a few names, and a certificate with its signature need.
	MaxEIFKernel    = 256 << 20
	MaxEIFMetadata  = 64 << 10
	MaxEIFSignature = 32 << 10
	// MaxEIFCmdline is COMMAND_LINE_SIZE of x86 kernels, without the NUL.
	MaxEIFCmdline = 2047

	// StoredChunk is the plaintext size of one chunk of a stored function.
	StoredChunk = 256 << 10

	// MaxRoute bounds the route that a v2 hello names.
	MaxRoute = 256
	// MaxKEMs bounds the key exchanges that a hello offers.
	MaxKEMs = 8
	// MaxHello bounds a v2 hello: a route, a nonce, a few numbers.
	MaxHello = 1 << 10
	// MaxSPKI bounds a Cape Key's public half; that of RSA-4096 has 550.
	MaxSPKI = 1 << 10
	// MaxAttest bounds a v2 attest: configuration, policy, two documents, a key.
	MaxAttest = MaxConfig + MaxPolicy + 2*MaxDocument + 4<<10
	// MaxGrant bounds what a caller shows beside a token.
	MaxGrant = 4 << 10
	// MaxOpen bounds the frame with the sealed open: token, grant, encapsulated key.
	MaxOpen = MaxToken + MaxGrant + 4<<10
	// DataPayload bounds the payload of one v2 data record.
	DataPayload = 256 << 10
	// MaxLogData bounds what one log record carries of a handler's output.
	MaxLogData = 16 << 10
	// MaxReceipt bounds a receipt: some 400 and a route.
	MaxReceipt = 1 << 10
	// MaxControl bounds every v2 record but data: the largest is an error with a traceback.
	MaxControl = 32 << 10
	// MaxFrame bounds a v2 frame after the handshake: type, id, payload, tag.
	MaxFrame = 1 + 9 + DataPayload + 16
	// MaxStreams bounds the invocations of one v2 connection that are not answered.
	MaxStreams = 16
	// InitialCredit is what a v2 sender may send of one id, in one direction, before it is
	// granted more.
	InitialCredit = 4 << 20
	// MaxCredit bounds the credit of one id that was granted and not used.
	MaxCredit = 64 << 20
	// MaxDirection bounds what one direction of a v2 session carries under one AES-GCM key.
	MaxDirection = 1 << 40

	// MaxSessions bounds the sessions that one runtime has admitted at once.
	MaxSessions = 512
	// MaxHandshakes bounds the connections that are no sessions yet: nobody has answered for them.
	MaxHandshakes = 256
	// MaxPipelined bounds the inputs of one v1 connection that wait.
	MaxPipelined = 16
)

// Limits of one handler process, unless its function asks for others in cape.toml.
const (
	HandlerMemory  = 2 << 30
	HandlerScratch = 1 << 30
	HandlerProcs   = 64
	HandlerFiles   = 1024
	HandlerCPU     = 4000 // thousandths of a processor
)

// Ceilings of what a function may ask for, where the operator left the limits above as they are.
const (
	// MaxHandlerMemory and MaxHandlerScratch fit the larger enclaves; what an enclave has not, nobody gets.
	MaxHandlerMemory  = 16 << 30
	MaxHandlerScratch = 16 << 30
	// MaxHandlerProcs is enough for numerical libraries on the largest instances.
	MaxHandlerProcs = 512
	// MaxHandlerFiles keeps one function far from the kernel's own limit.
	MaxHandlerFiles = 4096
	MaxHandlerCPU   = 64_000
	// MaxHandlerCall is how long one call may take at most.
	MaxHandlerCall = 10 * time.Minute
	// MaxFunctionConfig bounds cape.toml: reading it takes time and memory by the square of its size.
	MaxFunctionConfig = 4 << 10
)

// Deadlines.
const (
	// HandlerCall is how long one call of a handler may take.
	HandlerCall = 60 * time.Second
	// HandlerStart is how long importing a function may take.
	HandlerStart = 60 * time.Second
	// IdleSession closes a connection without traffic.
	IdleSession = 60 * time.Second
	// Handshake bounds the time from a connection's first byte to its nonce.
	Handshake = 15 * time.Second
	// HandshakePatience is how long a handshake is left alone when there are too many: several times what one takes.
	HandshakePatience = 2 * time.Second
	// LinkCall bounds one request over a link between runtime and host, bodies of functions aside.
	LinkCall = 30 * time.Second
	// BodyStall bounds the time between two reads of a large body.
	BodyStall = 30 * time.Second
	// ClockSkew is how far ahead of the verifier's clock a document may be.
	ClockSkew = 5 * time.Minute
	// MaxDocumentAge is how old a live document may be.
	MaxDocumentAge = time.Hour
)
