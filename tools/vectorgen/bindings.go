package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/attest/testkit"
	"github.com/cape-functions/cape/core/keypolicy"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

const (
	kmsARN  = "arn:aws:kms:eu-west-1:111122223333:key/12345678-1234-1234-1234-123456789012"
	roleARN = "arn:aws:iam::111122223333:role/cape"
)

// scene is an enclave's answer to a hello before it is encoded.
type scene struct {
	authority *testkit.Authority
	at        time.Time
	hello     object
	config    object
	policy    []byte
	birth     []byte
	claim     object // without the hashes, which sum fills in
	document  nitro.Document
	attest    object
	fixed     map[string]any // fields of claim that stay as they are
	userData  []byte         // stands in place of claim
}

func sha(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

func edSPKI(key ed25519.PrivateKey) []byte {
	return append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, publicOf(key)...)
}

func newScene(s *set) *scene {
	at := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	x := &scene{authority: testkit.NewAuthority("session v2", at), at: at, hello: sessionHello(), config: configObject(), fixed: map[string]any{}}
	_, pcr16 := measured(trustObject())
	x.document = x.authority.Document(at)
	x.document.PCRs[16] = nitro.PCR(pcr16)
	x.document.Nonce, x.document.PublicKey = hashBytes("nonce"), edSPKI(ed25519.NewKeyFromSeed(hashBytes("receipt key")))
	x.policy = x.render(s, roleARN, x.document.PCRs[16])
	x.birth = x.born(kmsARN, x.policy, x.document.PCRs)
	x.claim = object{{"v", 2}, {"use", "session"}, {"kem", 0x647a}, {"pk", nil}, {"policy", nil}, {"config", nil}, {"tls", nil}}
	x.attest = object{{"kem", 0x647a}, {"public_key", xwingPair(s, "a").public}, {"document", nil}, {"config", nil}, {"policy", nil}, {"birth", nil}, {"skew_ms", 0}}
	return x
}

// render writes a policy by the template: kms.md says how, and its own tests check it.
func (x *scene) render(s *set, role string, pcr16 nitro.PCR) []byte {
	policy, err := keypolicy.Render(keypolicy.Params{Partition: "aws", AccountID: "111122223333", Role: role,
		PCR8: []nitro.PCR{x.document.PCRs[8]}, PCR16: pcr16})
	s.check(err)
	return policy
}

func (x *scene) born(kms string, policy []byte, pcrs map[int]nitro.PCR) []byte {
	doc := x.authority.Document(x.at)
	doc.PCRs, doc.Nonce, doc.PublicKey = pcrs, nil, nil
	doc.UserData = object{{"v", 2}, {"use", "kek"}, {"kms", kms}, {"policy", sha(policy)}}.encode()
	return x.authority.Sign(doc)
}

// input puts the parts together: claim first, then document, then message.
func (x *scene) input() vectors.AttestV2Input {
	config := x.config.encode()
	hashes := map[string]any{"policy": sha(x.policy), "config": sha(config)}
	for _, f := range x.attest {
		if key, ok := f.value.([]byte); ok && f.key == "public_key" {
			hashes["pk"] = sha(key)
		}
	}
	for _, given := range []map[string]any{hashes, x.fixed} {
		for key, value := range given {
			x.claim = x.claim.with(key, value)
		}
	}
	x.document.UserData = x.userData
	if x.userData == nil {
		x.document.UserData = x.claim.encode()
	}
	message := x.attest.with("document", x.authority.Sign(x.document)).with("config", config).with("policy", x.policy).with("birth", x.birth)
	return vectors.AttestV2Input{Hello: x.hello.encode(), Attest: message.encode(), Roots: [][]byte{x.authority.Root},
		At: x.at.Format(time.RFC3339), PCR0: pcrBytes(testkit.PCR(0))}
}

func pcrBytes(p nitro.PCR) []byte { return p[:] }

func bindings(s *set, _ *keyring) {
	bindingsSound(s)
	bindingsBinding(s)
	bindingsTrust(s)
	bindingsEvidence(s)
}

func (s *set) scene(name, about, want string, change func(x *scene)) {
	x := newScene(s)
	change(x)
	s.fail(name, about, x.input(), want)
}

func bindingsSound(s *set) {
	sound := func(name, about string, change func(x *scene)) {
		x := newScene(s)
		change(x)
		in := x.input()
		_, pcr16 := measured(trustObject())
		tls, _ := x.fixed["tls"].([]byte)
		s.ok(name, about, in, vectors.AttestV2Output{KMS: kmsARN, PCR16: pcr16, Policy: sha(x.policy), TLS: append([]byte{}, tls...),
			ReceiptKey: publicOf(ed25519.NewKeyFromSeed(hashBytes("receipt key")))})
	}
	sound("x-wing", "An enclave that has X-Wing.", func(*scene) {})
	sound("tls", "TLS ends in the enclave.", func(x *scene) { x.fixed["tls"] = hashBytes("tls") })
	sound("x25519", "A client that has X25519 alone.", func(x *scene) {
		x.hello = x.hello.with("kems", []any{0x20})
		x.useX25519(s)
	})
}

func (x *scene) useX25519(s *set) {
	x.attest = x.attest.with("kem", 0x20).with("public_key", x25519Pair(s, "a").public)
	x.fixed["kem"] = 0x20
}

func bindingsBinding(s *set) {
	s.scene("kem-stripped", "The host took X-Wing from the hello, and a genuine enclave chose X25519.", "kem", func(x *scene) { x.useX25519(s) })
	s.scene("kem-relabelled", "The document is for X25519, the message says X-Wing.", "binding", func(x *scene) { x.fixed["kem"] = 0x20 })
	s.scene("session-key-swapped", "A session key of the host's beside a genuine document.", "binding", func(x *scene) {
		x.fixed["pk"] = sha(xwingPair(s, "a").public)
		x.attest = x.attest.with("public_key", xwingPair(s, "b").public)
	})
	s.scene("policy-swapped", "Another policy beside a genuine document.", "binding", func(x *scene) { x.fixed["policy"] = hashBytes("policy") })
	s.scene("config-swapped", "Another configuration beside a genuine document.", "binding", func(x *scene) { x.fixed["config"] = hashBytes("config") })
	s.scene("claim-of-a-key", "A Cape Key's document.", "binding", func(x *scene) {
		x.userData = object{{"v", 2}, {"use", "key"}, {"user", "alice"}, {"acct", nil}, {"ck", hashBytes("ck")},
			{"policy", sha(x.policy)}, {"config", sha(x.config.encode())}, {"tls", nil}}.encode()
	})
	s.scene("claim-of-a-birth", "A birth document with the caller's nonce.", "binding", func(x *scene) {
		x.userData = object{{"v", 2}, {"use", "kek"}, {"kms", kmsARN}, {"policy", sha(x.policy)}}.encode()
	})
	s.scene("claim-in-json", "A document of version 1.", "binding", func(x *scene) {
		data, err := json.Marshal(map[string][]byte{"func_checksum": hashBytes("fn")})
		s.check(err)
		x.userData = data
	})
	s.scene("receipt-key-raw", "A document with a public key of no known form.", "binding", func(x *scene) { x.document.PublicKey = hashBytes("key") })
	s.scene("receipt-key-on-p384", "A document with a key of another kind than Ed25519.", "binding", func(x *scene) {
		spki, err := x509.MarshalPKIXPublicKey(testkit.Key("receipt").Public())
		s.check(err)
		x.document.PublicKey = spki
	})
}

func bindingsTrust(s *set) {
	s.scene("other-issuer", "Configuration with another issuer than PCR16 measures.", "trust", func(x *scene) {
		x.config = x.config.with("trust", trustObject().with("issuers", []any{issuerObject().with("iss", "https://evil.example")}))
	})
	s.scene("no-pcr16", "A document without PCR16.", "trust", func(x *scene) { delete(x.document.PCRs, 16) })
	s.scene("not-inspected", "An enclave that has not inspected its key.", "trust", func(x *scene) { x.policy, x.birth = []byte{}, nil })
	s.scene("policy-for-another-role", "A policy for another role.", "trust", func(x *scene) {
		x.policy = x.render(s, "arn:aws:iam::111122223333:role/other", x.document.PCRs[16])
		x.birth = x.born(kmsARN, x.policy, x.document.PCRs)
	})
	s.scene("policy-for-another-trust", "A policy for another PCR16, and a birth that fits it.", "trust", func(x *scene) {
		other := nitro.PCR(bytesOf("other trust", 48))
		x.policy = x.render(s, roleARN, other)
		pcrs := map[int]nitro.PCR{}
		for i, v := range x.document.PCRs {
			pcrs[i] = v
		}
		pcrs[16] = other
		x.birth = x.born(kmsARN, x.policy, pcrs)
	})
	s.scene("policy-with-a-statement-more", "A policy with one more statement.", "trust", func(x *scene) {
		more := `{"Sid":"more","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:Decrypt","Resource":"*"},`
		text := string(x.policy)
		at := strings.Index(text, `"Statement"`)
		at += strings.Index(text[at:], "[") + 1
		x.policy = []byte(text[:at] + more + text[at:])
		x.birth = x.born(kmsARN, x.policy, x.document.PCRs)
	})
	s.scene("no-birth", "No birth document.", "trust", func(x *scene) { x.birth = nil })
	s.scene("birth-of-another-key", "The birth document of another key: the host's own KMS.", "trust", func(x *scene) {
		x.birth = x.born(strings.Replace(kmsARN, "12345678", "87654321", 1), x.policy, x.document.PCRs)
	})
	s.scene("birth-with-another-policy", "A key that was born under another policy.", "trust", func(x *scene) {
		x.birth = x.born(kmsARN, []byte("{}"), x.document.PCRs)
	})
	s.scene("birth-under-another-root", "A birth document of somebody else's machine.", "trust", func(x *scene) {
		other := newScene(s)
		other.authority = testkit.NewAuthority("another", x.at)
		x.birth = other.born(kmsARN, x.policy, x.document.PCRs)
	})
	s.scene("replica-key", "A multi-Region key, whose replica has a policy of its own.", "trust", func(x *scene) {
		arn := strings.Replace(kmsARN, "12345678", "mrk-12345678", 1)
		x.config = x.config.with("kms", arn)
		x.birth = x.born(arn, x.policy, x.document.PCRs)
	})
}

func bindingsEvidence(s *set) {
	s.scene("old-document", "A genuine document for another caller's nonce.", "nonce", func(x *scene) { x.document.Nonce = hashBytes("old") })
	s.scene("stale-document", "A genuine document, two hours old.", "time", func(x *scene) { x.document.Timestamp = x.at.Add(-2 * time.Hour) })
	s.scene("other-image", "Another image.", "pcr", func(x *scene) { x.document.PCRs[0] = testkit.PCR(1) })
	x := newScene(s)
	in := x.input()
	in.Roots = [][]byte{testkit.NewAuthority("another", x.at).Root}
	s.fail("other-root", "A document under another root.", in, "root")
	in = x.input()
	in.Attest = slices.Concat(in.Attest, []byte{0})
	s.fail("a-byte-more", "A byte after the message.", in, "malformed")
	s.fail("refusal", "An error instead of an attest.", vectors.AttestV2Input{Hello: in.Hello, Roots: in.Roots, At: in.At, PCR0: in.PCR0,
		Attest: object{{"error", object{{"code", "unavailable"}, {"message", "use version 1"}}}}.encode()}, "refused")
}
