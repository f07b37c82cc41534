package localkms

import (
	"errors"
	"fmt"
	"time"

	"github.com/cape-functions/cape/core/attest"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/policy"
	"github.com/cape-functions/cape/host/internal/localkms/cms"
)

// maxDocumentAge is how old an attestation document may be, as at AWS KMS.
const maxDocumentAge = 5 * time.Minute

// recipientInfo is the Recipient parameter.
type recipientInfo struct {
	AttestationDocument    []byte
	KeyEncryptionAlgorithm string
}

// recipient is a verified attestation document.
type recipient struct {
	spki []byte
	pcrs map[int]nitro.PCR
}

// openRecipient verifies the Recipient of a request. Which measurements are
// good is the key policy's affair, so none is asked for here; a debug
// document's are zero and match what a policy says of zeros.
func (c *call) openRecipient(in *recipientInfo) error {
	if in == nil {
		return nil
	}
	if in.KeyEncryptionAlgorithm != algorithmOAEP256 {
		return fail(codeValidation, "Recipient.KeyEncryptionAlgorithm must be %s", algorithmOAEP256)
	}
	if n := len(in.AttestationDocument); n == 0 || n > nitro.MaxDocument {
		return fail(codeValidation, "Recipient.AttestationDocument has %d bytes; it must have 1 to %d", n, nitro.MaxDocument)
	}
	e, err := attest.Verify(c.s.chains, in.AttestationDocument, policy.Policy{
		Roots:            c.s.roots(),
		PCRsNotChecked:   true,
		NonceNotChecked:  true,
		AllowDebug:       true,
		MaxAge:           maxDocumentAge,
		RequirePublicKey: true,
	}, c.now)
	if err != nil {
		return &apiError{code: codeValidation, message: "Recipient.AttestationDocument is refused: " + refusal(err), cause: err}
	}
	if _, err := cms.ParseKey(e.Document.PublicKey); err != nil {
		return &apiError{code: codeValidation, message: "the attestation document's public key cannot be used: it must be a DER SubjectPublicKeyInfo of an RSA key of 2048 to 4096 bits", cause: err}
	}
	c.recipient = &recipient{spki: e.Document.PublicKey, pcrs: e.Document.PCRs}
	return nil
}

// refusal names the class of an error of attest.Verify.
func refusal(err error) string {
	for _, class := range []struct {
		err  error
		text string
	}{
		{attest.ErrMalformed, "it is not an attestation document"},
		{attest.ErrRoot, "it was signed under a root that this KMS does not accept"},
		{attest.ErrChain, "its certificates do not form a proper chain"},
		{attest.ErrTime, "it is older than 5 minutes or its certificates are not valid now; ask the security module for a fresh one"},
		{attest.ErrSignature, "its signature is wrong"},
		{attest.ErrField, "it has no public key"},
		{attest.ErrPCR, "it lacks PCR0, PCR1 or PCR2"},
		{attest.ErrPolicy, "this KMS accepts no attestation root"},
	} {
		if errors.Is(err, class.err) {
			return class.text
		}
	}
	return "it could not be verified"
}

// facts are the condition keys that the document fills in. PCR values are lower
// case hexadecimal; a register that the document leaves out stays absent.
func (r *recipient) facts() facts {
	if r == nil {
		return nil
	}
	f := facts{}
	for i, v := range r.pcrs {
		f.set(fmt.Sprintf("kms:recipientattestation:pcr%d", i), v.String())
	}
	if v, ok := r.pcrs[0]; ok {
		f.set("kms:recipientattestation:imagesha384", v.String())
	}
	return f
}

// deliver returns a secret as the request wants it: in plain, or, with a
// Recipient, encrypted to the document's key and not in plain.
func (c *call) deliver(secret []byte) (plain, forRecipient []byte, err error) {
	if c.recipient == nil {
		return secret, nil, nil
	}
	out, err := cms.Envelope(c.recipient.spki, secret)
	if err != nil {
		return nil, nil, internal(err)
	}
	return nil, out, nil
}
