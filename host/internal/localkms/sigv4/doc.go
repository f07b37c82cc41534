// Package sigv4 verifies AWS Signature Version 4 on requests to the root path
// without a query, the form of AWS's JSON and query protocols.
//
// Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html.
package sigv4

import (
	"errors"
	"time"
)

// MaxSkew is how far a request's time may be from the server's, as at AWS.
const MaxSkew = 5 * time.Minute

// Errors of Parse and Verify.
var (
	// ErrMissing: the request is not signed at all.
	ErrMissing = errors.New("request is not signed")
	// ErrIncomplete: the Authorization header or what it covers is not of the
	// required form.
	ErrIncomplete = errors.New("incomplete request signature")
	// ErrTime: the request's time is too far from the server's.
	ErrTime = errors.New("signature is not of this time")
	// ErrScope: the signature is for another region, service or day.
	ErrScope = errors.New("signature is for another region or service")
	// ErrMismatch: the signature is not that of the key.
	ErrMismatch = errors.New("request signature does not match")
)
