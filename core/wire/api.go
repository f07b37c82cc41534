package wire

import "time"

// Function is an element of GET /v1/functions. Checksum is lower hex.
type Function struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"created_at"`
	Checksum  string    `json:"checksum"`
	Public    bool      `json:"public"`
	Size      int64     `json:"size"`
}

// Release is an element of GET /v1/releases: what this server says it runs.
// It is never trusted, only compared.
type Release struct {
	Measurements map[string]string `json:"measurements"` // "HashAlgorithm", "PCR0", ... as nitro-cli describe-eif says
	ImageSHA256  string            `json:"image_sha256,omitempty"`
	Revision     string            `json:"revision"`
	Signature    string            `json:"signature,omitempty"`
	Python       string            `json:"python"`   // "3.11"
	Platform     string            `json:"platform"` // "linux-x86_64", the form of sysconfig.get_platform
}

// Error codes, shared by both protocol versions.
const (
	CodeUnauthorized    = "unauthorized"
	CodeNotFound        = "not_found" // also for what one may not see
	CodeInvalidFunction = "invalid_function"
	CodeInvalidRequest  = "invalid_request"
	CodeFunctionError   = "function_error"
	CodeTimeout         = "timeout"
	CodeOutOfMemory     = "out_of_memory"
	CodeTooLarge        = "too_large"
	CodeQuota           = "quota"
	CodeUnavailable     = "unavailable"
	CodeInternal        = "internal"
)

// ErrorBody is the JSON body of every HTTP error. Error is one line for
// people; published clients show it, and look in it for "token is expired".
type ErrorBody struct {
	Error   string `json:"error"`
	Message string `json:"message"` // what to do about it
	Code    string `json:"code"`
}

// Status returns the HTTP status that fits an error code.
func Status(code string) int {
	switch code {
	case CodeUnauthorized:
		return 401
	case CodeNotFound:
		return 404
	case CodeInvalidFunction, CodeInvalidRequest, CodeFunctionError:
		return 400
	case CodeTooLarge:
		return 413
	case CodeQuota:
		return 429
	case CodeUnavailable, CodeTimeout, CodeOutOfMemory:
		return 503
	}
	return 500
}
