package testkit

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Call is a request that arrived.
type Call struct {
	Operation string // "GenerateDataKey", "GetCallerIdentity"
	Input     map[string]any
	Header    http.Header
}

// Key is a key of the fake, as DescribeKey, GetKeyPolicy and ListGrants tell it.
type Key struct {
	Metadata map[string]any
	Policy   string
	Grants   []any
}

// KMS is the fake. Fields are set before requests arrive.
type KMS struct {
	Account, Region string
	// Identity is what GetCallerIdentity tells.
	Identity string
	// Pair is what GenerateDataKeyPair gives out, PKCS#8.
	Pair []byte
	// Change may replace status and answer of an operation.
	Change func(operation string, status int, answer map[string]any) (int, map[string]any)

	server *httptest.Server
	mu     sync.Mutex
	keys   map[string]*Key
	blobs  map[string]blob
	calls  []Call
}

type blob struct {
	arn       string
	plaintext []byte
	context   map[string]any
}

// New starts a fake; Close ends it.
func New(account, region, identity string) *KMS {
	k := &KMS{Account: account, Region: region, Identity: identity, keys: map[string]*Key{}, blobs: map[string]blob{}}
	k.server = httptest.NewUnstartedServer(k)
	k.server.Config.ErrorLog = log.New(io.Discard, "", 0) // clients that refuse its certificate
	k.server.StartTLS()
	return k
}

// Close ends the fake.
func (k *KMS) Close() { k.server.Close() }

// URL is the endpoint of KMS and of STS.
func (k *KMS) URL() string { return k.server.URL }

// Roots is a pool with the fake's certificate.
func (k *KMS) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(k.server.Certificate())
	return pool
}

// Calls returns the requests so far.
func (k *KMS) Calls() []Call {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]Call(nil), k.calls...)
}

// Key returns a key to look at or to change.
func (k *KMS) Key(arn string) *Key {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.keys[arn]
}

// Add makes a sound key with a policy and returns its ARN.
func (k *KMS) Add(policy string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.add(policy)
}

func (k *KMS) add(policy string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	h := hex.EncodeToString(b[:])
	id := strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
	arn := fmt.Sprintf("arn:aws:kms:%s:%s:key/%s", k.Region, k.Account, id)
	k.keys[arn] = &Key{Policy: policy, Metadata: map[string]any{
		"AWSAccountId": k.Account, "KeyId": id, "Arn": arn, "CreationDate": 1.7e9, "Enabled": true, "KeyState": "Enabled",
		"KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
		"Origin": "AWS_KMS", "KeyManager": "CUSTOMER", "MultiRegion": false, "EncryptionAlgorithms": []string{"SYMMETRIC_DEFAULT"},
	}}
	return arn
}

// failure is an error answer of KMS.
type failure struct{ code string }

func (f failure) Error() string { return f.code }

// ServeHTTP answers one request.
func (k *KMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	call := Call{Header: r.Header, Operation: strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")}
	if call.Operation == "" {
		call.Operation = "GetCallerIdentity"
	} else if err := json.Unmarshal(body, &call.Input); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	k.calls = append(k.calls, call)
	status := http.StatusOK
	answer, err := k.answer(call)
	if err != nil {
		status, answer = http.StatusBadRequest, map[string]any{"__type": err.Error(), "message": "no"}
	}
	if k.Change != nil {
		status, answer = k.Change(call.Operation, status, answer)
	}
	k.write(w, call.Operation, status, answer)
}

func (k *KMS) write(w http.ResponseWriter, operation string, status int, answer map[string]any) {
	var out []byte
	if operation != "GetCallerIdentity" {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		out = must(json.Marshal(answer))
	} else if code, failed := answer["__type"]; failed {
		out = fmt.Appendf(nil, "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>no</Message></Error></ErrorResponse>", code)
	} else {
		out = fmt.Appendf(nil, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>`+
			"<Arn>%s</Arn><UserId>AROA:x</UserId><Account>%s</Account></GetCallerIdentityResult></GetCallerIdentityResponse>", answer["Arn"], k.Account)
	}
	w.WriteHeader(status)
	_, _ = w.Write(out) // the client may be gone
}

func (k *KMS) answer(c Call) (map[string]any, error) {
	switch c.Operation {
	case "GetCallerIdentity":
		return map[string]any{"Arn": k.Identity}, nil
	case "CreateKey":
		arn := k.add(c.Input["Policy"].(string))
		return map[string]any{"KeyMetadata": maps.Clone(k.keys[arn].Metadata)}, nil
	}
	arn, _ := c.Input["KeyId"].(string)
	key := k.keys[arn]
	if key == nil {
		return nil, failure{"NotFoundException"}
	}
	switch c.Operation {
	case "DescribeKey":
		return map[string]any{"KeyMetadata": maps.Clone(key.Metadata)}, nil
	case "GetKeyPolicy":
		return map[string]any{"Policy": key.Policy, "PolicyName": "default"}, nil
	case "ListGrants":
		return map[string]any{"Grants": append([]any{}, key.Grants...), "Truncated": false}, nil
	case "GenerateDataKey":
		plain := make([]byte, 32)
		_, _ = rand.Read(plain) // never fails
		return k.wrap(c, arn, plain, "CiphertextBlob", nil)
	case "GenerateDataKeyPair":
		return k.wrap(c, arn, k.Pair, "PrivateKeyCiphertextBlob", map[string]any{"KeyPairSpec": c.Input["KeyPairSpec"]})
	case "Decrypt":
		return k.unwrap(c, arn)
	}
	return nil, failure{"UnknownOperationException"}
}

func (k *KMS) wrap(c Call, arn string, plain []byte, field string, answer map[string]any) (map[string]any, error) {
	id := make([]byte, 180)
	_, _ = rand.Read(id) // never fails
	context, _ := c.Input["EncryptionContext"].(map[string]any)
	k.blobs[string(id)] = blob{arn, bytes.Clone(plain), context}
	sealed, err := seal(c.Input, plain)
	if err != nil {
		return nil, err
	}
	if answer == nil {
		answer = map[string]any{}
	}
	answer["KeyId"], answer[field], answer["CiphertextForRecipient"] = arn, id, sealed
	return answer, nil
}

func (k *KMS) unwrap(c Call, arn string) (map[string]any, error) {
	var id []byte
	raw := must(json.Marshal(c.Input["CiphertextBlob"]))
	if err := json.Unmarshal(raw, &id); err != nil {
		return nil, failure{"ValidationException"}
	}
	b, ok := k.blobs[string(id)]
	if !ok {
		return nil, failure{"InvalidCiphertextException"}
	}
	if b.arn != arn {
		return nil, failure{"IncorrectKeyException"}
	}
	if context, _ := c.Input["EncryptionContext"].(map[string]any); !maps.Equal(context, b.context) {
		return nil, failure{"InvalidCiphertextException"}
	}
	sealed, err := seal(c.Input, b.plaintext)
	if err != nil {
		return nil, err
	}
	return map[string]any{"KeyId": arn, "CiphertextForRecipient": sealed, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}, nil
}

// seal encrypts to the public key of the attestation document of the request.
func seal(input map[string]any, plain []byte) ([]byte, error) {
	var r struct {
		Recipient struct {
			AttestationDocument    []byte
			KeyEncryptionAlgorithm string
		}
	}
	if err := json.Unmarshal(must(json.Marshal(input)), &r); err != nil || r.Recipient.KeyEncryptionAlgorithm != "RSAES_OAEP_SHA_256" {
		return nil, failure{"ValidationException"}
	}
	pub, err := PublicKey(r.Recipient.AttestationDocument)
	if err != nil {
		return nil, failure{"ValidationException"}
	}
	return Seal(pub, plain).BER(), nil
}

// PublicKey returns the RSA key that a document holds, unverified.
func PublicKey(doc []byte) (*rsa.PublicKey, error) {
	s, err := nitro.Parse(doc)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParsePKIXPublicKey(s.Document.PublicKey)
	if err != nil {
		return nil, err
	}
	pub, ok := parsed.(*rsa.PublicKey)
	if !ok {
		return nil, errors.New("not an RSA key")
	}
	return pub, nil
}

// Document returns the attestation document of a request, nil when it has none.
func Document(c Call) []byte {
	var r struct {
		Recipient struct{ AttestationDocument []byte }
	}
	if err := json.Unmarshal(must(json.Marshal(c.Input)), &r); err != nil {
		return nil
	}
	return r.Recipient.AttestationDocument
}
