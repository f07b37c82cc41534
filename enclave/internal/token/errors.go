package token

import "errors"

// Reasons for refusing a token. Their texts are fit for the caller and hold nothing of the
// token.
var (
	// ErrMalformed: not a compact JWS of an accepted algorithm and size.
	ErrMalformed = errors.New("token is malformed, or signed by an algorithm that is not accepted")
	// ErrIssuer: the issuer is not one of the configuration's.
	ErrIssuer = errors.New("token is from an issuer that this enclave does not accept")
	// ErrKey: the issuer has no key that could have signed it.
	ErrKey = errors.New("token is signed by a key that its issuer does not have")
	// ErrSignature: the signature does not hold.
	ErrSignature = errors.New("token's signature does not hold")
	// ErrClaims: a claim is missing or not of its form.
	ErrClaims = errors.New("token's claims are incomplete")
	// ErrAudience: it was issued for somebody else.
	ErrAudience = errors.New("token was issued for another audience")
	// ErrExpired: its time is over. Published clients look for this phrase.
	ErrExpired = errors.New("token is expired")
	// ErrNotYet: its time has not come.
	ErrNotYet = errors.New("token is not valid yet")
	// ErrUnavailable: the issuer's keys cannot be had at the moment; the token may be good.
	ErrUnavailable = errors.New("the token issuer's keys cannot be fetched at the moment")
)
