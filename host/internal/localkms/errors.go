package localkms

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/cape-functions/cape/host/internal/localkms/policy"
	"github.com/cape-functions/cape/host/internal/localkms/sigv4"
)

// Error codes, as AWS KMS names them.
const (
	codeAccessDenied       = "AccessDeniedException"
	codeAlreadyExists      = "AlreadyExistsException"
	codeDisabled           = "DisabledException"
	codeDryRun             = "DryRunOperationException"
	codeExpiredImportToken = "ExpiredImportTokenException"
	codeExpiredToken       = "ExpiredTokenException"
	codeIncompleteSig      = "IncompleteSignatureException"
	codeIncorrectKey       = "IncorrectKeyException"
	codeIncorrectMaterial  = "IncorrectKeyMaterialException"
	codeInternal           = "KMSInternalException"
	codeInvalidAlias       = "InvalidAliasNameException"
	codeInvalidArn         = "InvalidArnException"
	codeInvalidCiphertext  = "InvalidCiphertextException"
	codeInvalidGrantID     = "InvalidGrantIdException"
	codeInvalidImportToken = "InvalidImportTokenException"
	codeInvalidMarker      = "InvalidMarkerException"
	codeInvalidSignature   = "InvalidSignatureException"
	codeInvalidState       = "KMSInvalidStateException"
	codeInvalidUsage       = "InvalidKeyUsageException"
	codeLimitExceeded      = "LimitExceededException"
	codeMalformedPolicy    = "MalformedPolicyDocumentException"
	codeMissingToken       = "MissingAuthenticationTokenException"
	codeNotFound           = "NotFoundException"
	codeSerialization      = "SerializationException"
	codeTag                = "TagException"
	codeThrottling         = "ThrottlingException"
	codeTooLarge           = "RequestEntityTooLargeException"
	codeUnknownOperation   = "UnknownOperationException"
	codeUnrecognized       = "UnrecognizedClientException"
	codeUnsupported        = "UnsupportedOperationException"
	codeValidation         = "ValidationException"
)

// apiError is an answer that is not a success. Its message goes to the caller;
// its cause only to the log.
type apiError struct {
	code, message string
	cause         error
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func (e *apiError) Unwrap() error { return e.cause }

// status is 400 for nearly everything, as AWS KMS does it.
func (e *apiError) status() int {
	switch e.code {
	case codeInternal:
		return http.StatusInternalServerError
	case codeTooLarge:
		return http.StatusRequestEntityTooLarge
	}
	return http.StatusBadRequest
}

func fail(code, format string, args ...any) error {
	return &apiError{code: code, message: fmt.Sprintf(format, args...)}
}

// internal hides a cause that is the server's own affair.
func internal(cause error) error {
	return &apiError{code: codeInternal, message: "the local KMS could not do this; its log says why", cause: cause}
}

// asAPIError turns any error into one that can be sent.
func asAPIError(err error) *apiError {
	var e *apiError
	if errors.As(err, &e) {
		return e
	}
	code := ""
	switch {
	case errors.Is(err, sigv4.ErrMissing):
		code = codeMissingToken
	case errors.Is(err, sigv4.ErrIncomplete):
		code = codeIncompleteSig
	case errors.Is(err, sigv4.ErrTime), errors.Is(err, sigv4.ErrScope), errors.Is(err, sigv4.ErrMismatch):
		code = codeInvalidSignature
	case errors.Is(err, policy.ErrMalformed):
		code = codeMalformedPolicy
	default:
		return &apiError{code: codeInternal, message: "the local KMS could not do this; its log says why", cause: err}
	}
	return &apiError{code: code, message: err.Error(), cause: err}
}
