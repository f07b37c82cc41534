package vectors

import "time"

// KindAttestation are attestation documents, policies and times.
const KindAttestation = "attestation"

// AttestationInput is a document and what a verifier knows and accepts.
type AttestationInput struct {
	Document []byte            `json:"document_b64"`
	At       *time.Time        `json:"at"` // RFC 3339; null: no time was given
	Policy   AttestationPolicy `json:"policy"`
}

// AttestationPolicy is a policy: null and empty both say nothing.
type AttestationPolicy struct {
	Roots            [][]byte       `json:"roots_b64"`
	PCRs             map[string]PCR `json:"pcrs"` // by index
	PCRsNotChecked   bool           `json:"pcrs_not_checked,omitempty"`
	Nonce            Hex            `json:"nonce_hex"`
	NonceNotChecked  bool           `json:"nonce_not_checked,omitempty"`
	AllowDebug       bool           `json:"allow_debug,omitempty"`
	MaxAge           int64          `json:"max_age_ms,omitempty"` // 0: the default
	TimeFromDocument bool           `json:"time_from_document,omitempty"`
	RequirePublicKey bool           `json:"require_public_key,omitempty"`
	RequireUserData  bool           `json:"require_user_data,omitempty"`
}

// PCR is a list of accepted values of one register.
type PCR struct {
	AnyOf []Hex `json:"any_of_hex"`
}

// AttestationOutput is what the document says. Fields that it does not have
// are empty.
type AttestationOutput struct {
	ModuleID  string `json:"module_id"`
	Timestamp int64  `json:"timestamp_ms"`
	PublicKey Hex    `json:"public_key_hex"`
	UserData  Hex    `json:"user_data_hex"`
	Nonce     Hex    `json:"nonce_hex"`
}
