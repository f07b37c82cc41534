package main

import (
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

func hashBytes(label string) []byte { return bytesOf(label, 32) }

func sessionHello() object {
	return object{{"v", 2}, {"use", "session"}, {"nonce", hashBytes("nonce")}, {"kems", []any{0x647a, 0x20}}, {"route", "/v1/run/2222222222222222222222"}}
}

func keyHello() object {
	return object{{"v", 2}, {"use", "key"}, {"nonce", hashBytes("nonce")}, {"route", "/v1/key"}, {"of", object{{"acct", hashBytes("acct")}}}}
}

// messages are the messages of session v2.
func messages(s *set, _ *keyring) {
	hellos(s)
	attests(s)
	claims(s)
	clientRecords(s)
	enclaveRecords(s)
	endRecords(s)
}

func hellos(s *set) {
	h, k := sessionHello(), keyHello()
	s.message("hello", "session", "A hello for a session that offers both key exchanges.", h)
	s.message("hello", "key", "A hello for an account's Cape Key.", k)
	s.accepted("hello", "key-of-user", "A hello for the Cape Key of a user name.", k.with("of", object{{"user", "alice"}}))
	s.accepted("hello", "unknown-kem", "Unknown key exchanges are offers like others.", h.with("kems", []any{0x11, 0x20}))
	for _, c := range []struct {
		name, about string
		o           object
	}{
		{"version-1", "Another version.", h.with("v", 1)},
		{"unknown-use", "Another use.", h.with("use", "kek")},
		{"short-nonce", "A nonce of 31 bytes.", h.with("nonce", bytesOf("nonce", 31))},
		{"text-nonce", "Text where bytes are due.", h.with("nonce", strings.Repeat("n", 32))},
		{"no-kems", "No key exchange offered.", h.with("kems", []any{})},
		{"kem-twice", "One key exchange twice.", h.with("kems", []any{0x20, 0x20})},
		{"nine-kems", "Nine key exchanges.", h.with("kems", []any{1, 2, 3, 4, 5, 6, 7, 8, 9})},
		{"large-kem", "A number of more than 16 bits.", h.with("kems", []any{0x10020})},
		{"negative-kem", "A negative number.", h.with("kems", []any{-1})},
		{"empty-route", "No route.", h.with("route", "")},
		{"relative-route", "A route without its slash.", h.with("route", "v1/run/x")},
		{"long-route", "A route of 257 bytes.", h.with("route", "/"+strings.Repeat("r", 256))},
		{"session-with-of", "A hello for a session that asks for a key.", h.with("of", object{{"user", "alice"}})},
		{"key-with-kems", "A hello for a key that offers a key exchange.", k.with("kems", []any{0x20})},
		{"of-nobody", "A hello for nobody's key.", k.with("of", object{})},
		{"of-both", "A hello for an account's and a user's key.", k.with("of", object{{"acct", hashBytes("acct")}, {"user", "alice"}})},
		{"of-short-acct", "An account of 31 bytes.", k.with("of", object{{"acct", bytesOf("acct", 31)}})},
		{"of-short-acct-and-user", "A user's key, and an account of 31 bytes.", k.with("of", object{{"acct", bytesOf("acct", 31)}, {"user", "alice"}})},
		{"of-acct-and-odd-user", "An account's key, and a user name that no route can hold.", k.with("of", object{{"acct", hashBytes("acct")}, {"user", "a/b"}})},
		{"of-odd-user", "A user name that no route can hold.", k.with("of", object{{"user", "a/b"}})},
		{"of-long-user", "A user name of 65 bytes.", k.with("of", object{{"user", strings.Repeat("u", 65)}})},
	} {
		s.refused("hello", c.name, c.about, c.o)
	}
}

func attests(s *set) {
	a := object{{"kem", 0x20}, {"public_key", hashBytes("pk")}, {"document", []byte("document")}, {"config", []byte("config")},
		{"policy", []byte("policy")}, {"birth", []byte("birth")}, {"skew_ms", -3}}
	k := object{{"document", []byte("document")}, {"config", []byte("config")}, {"policy", []byte("policy")}, {"birth", []byte("birth")},
		{"skew_ms", 0}, {"spki", []byte("spki")}}
	s.message("attest", "x25519", "An attest with X25519.", a)
	s.message("key-attest", "plain", "The answer to a hello for a key.", k)
	s.accepted("attest", "x-wing", "An attest with X-Wing.", a.with("kem", 0x647a).with("public_key", bytesOf("pk", 1216)))
	s.accepted("attest", "not-inspected", "An enclave that has not inspected its key: readable, and refused when it is verified.", a.with("policy", []byte{}).with("birth", nil))
	for _, c := range []struct {
		name, about string
		o           object
	}{
		{"unknown-kem", "A key exchange that is none of v2's.", a.with("kem", 0x10)},
		{"key-of-another-kem", "The key of X25519 for X-Wing.", a.with("kem", 0x647a)},
		{"short-key", "A key of 31 bytes.", a.with("public_key", bytesOf("pk", 31))},
		{"no-document", "An empty document.", a.with("document", []byte{})},
		{"large-document", "A document of 16,385 bytes.", a.with("document", make([]byte, 16385))},
		{"no-config", "An empty configuration.", a.with("config", []byte{})},
		{"large-policy", "A policy of 32,769 bytes.", a.with("policy", make([]byte, 32769))},
		{"with-error", "An attest with an error.", a.with("error", object{{"code", "internal"}, {"message", "no"}})},
		{"session-answer-to-key", "The answer to a hello for a key.", k},
	} {
		s.refused("attest", c.name, c.about, c.o)
	}
	s.refused("key-attest", "no-spki", "An empty Cape Key.", k.with("spki", []byte{}))
	s.refused("key-attest", "large-spki", "A Cape Key of 1,025 bytes.", k.with("spki", make([]byte, 1025)))
	refusal := object{{"error", object{{"code", "not_found"}, {"message", "there is no such function"}}}}
	for _, typ := range []string{"attest", "key-attest"} {
		s.fail(typ+"-refusal", "The host or the enclave refused: untrusted text.", messageInput(typ, refusal), "refused")
	}
}

func claims(s *set) {
	c := object{{"v", 2}, {"use", "session"}, {"kem", 0x647a}, {"pk", hashBytes("pk")}, {"policy", hashBytes("policy")}, {"config", hashBytes("config")}, {"tls", nil}}
	k := object{{"v", 2}, {"use", "key"}, {"user", "alice"}, {"acct", hashBytes("acct")}, {"ck", hashBytes("ck")},
		{"policy", hashBytes("policy")}, {"config", hashBytes("config")}, {"tls", nil}}
	s.message("session-claim", "plain", "The user data of a session's document.", c)
	s.message("key-claim", "plain", "The user data of a Cape Key's document.", k)
	s.accepted("session-claim", "with-tls", "TLS ends in the enclave.", c.with("tls", hashBytes("tls")))
	s.accepted("key-claim", "legacy", "The key of a user without an account.", k.with("acct", nil))
	s.accepted("key-claim", "by-account", "A key that was asked for by its account.", k.with("user", nil))
	s.refused("session-claim", "of-a-key", "A Cape Key's document shown for a session.", k)
	s.refused("session-claim", "of-a-birth", "A birth document shown for a session.", object{{"v", 2}, {"use", "kek"}, {"kms", "arn"}, {"policy", hashBytes("policy")}})
	s.refused("session-claim", "use-key", "A session's claim that says it is for a key.", c.with("use", "key"))
	s.refused("key-claim", "use-session", "A key's claim that says it is for a session.", k.with("use", "session"))
	s.refused("key-claim", "version-1", "Another version.", k.with("v", 1))
	s.refused("session-claim", "version-1", "Another version.", c.with("v", 1))
	s.refused("session-claim", "unknown-kem", "Another key exchange.", c.with("kem", 0x10))
	s.refused("session-claim", "short-hash", "A hash of 31 bytes.", c.with("pk", bytesOf("pk", 31)))
	s.refused("session-claim", "short-tls", "A TLS hash of 31 bytes.", c.with("tls", bytesOf("tls", 31)))
	s.fail("session-claim-json", "User data of version 1.", vectors.MessageInput{Type: "session-claim", Bytes: []byte(`{"func_checksum":"ZnMeXM8iZoDdXJih0a1St6TJhphAQtBnLY8xUxMLNKg="}`)}, "malformed")
	s.refused("key-claim", "of-a-session", "A session's document shown for a Cape Key.", c)
	s.refused("key-claim", "of-nobody", "Neither user nor account.", k.with("user", nil).with("acct", nil))
	s.refused("key-claim", "short-acct", "An account of 31 bytes.", k.with("acct", bytesOf("acct", 31)))
}

func clientRecords(s *set) {
	b := object{{"id", 1}, {"kind", "input"}}
	d := object{{"id", 1}, {"kind", "function"}, {"manifest", []byte("manifest")}, {"sig", bytesOf("sig", 64)}}
	s.message("begin", "input", "An input begins.", b)
	s.accepted("begin", "function", "A function to be tested begins.", b.with("kind", "function"))
	s.accepted("begin", "deploy", "A function to be deployed begins.", d)
	s.refused("begin", "id-0", "Ids count from 1.", b.with("id", 0))
	s.refused("begin", "negative-id", "A negative id.", b.with("id", -1))
	s.refused("begin", "unknown-kind", "Another kind.", b.with("kind", "output"))
	s.refused("begin", "signed-input", "An input with a manifest.", d.with("kind", "input"))
	s.refused("begin", "no-sig", "A manifest without signature.", d.without("sig"))
	s.refused("begin", "no-manifest", "A signature without manifest.", d.without("manifest"))
	s.refused("begin", "null-sig", "A signature of null: it must be there or not.", d.with("sig", nil))
	s.refused("begin", "short-sig", "A signature of 63 bytes.", d.with("sig", bytesOf("sig", 63)))
	s.refused("begin", "large-manifest", "A manifest of 4,097 bytes.", d.with("manifest", make([]byte, 4097)))
	s.message("client-end", "plain", "The end of an input.", object{{"id", 2}})
	s.refused("client-end", "id-0", "Ids count from 1.", object{{"id", 0}})
	s.refused("client-end", "text-id", "An id of text.", object{{"id", "1"}})
	s.message("cancel", "plain", "An invocation is to end.", object{{"id", 3}})
	s.refused("cancel", "id-0", "Ids count from 1.", object{{"id", 0}})
	w := object{{"id", 1}, {"bytes", 2 << 20}}
	s.message("window", "plain", "Two MiB more.", w)
	s.accepted("window", "largest", "The most that one record may grant.", w.with("bytes", 64<<20))
	s.refused("window", "nothing", "Credit of no bytes.", w.with("bytes", 0))
	s.refused("window", "too-much", "A byte more than allowed.", w.with("bytes", 64<<20+1))
	s.refused("window", "id-0", "Ids count from 1.", w.with("id", 0))
}

func enclaveRecords(s *set) {
	e := object{{"id", 1}, {"code", "function_error"}, {"message", "ValueError: no"}}
	s.message("error", "of-an-input", "An input failed.", e)
	s.accepted("error", "of-the-session", "The session failed.", e.with("id", nil))
	s.accepted("error", "without-text", "A code alone.", e.with("message", ""))
	s.refused("error", "id-0", "Ids count from 1; null is the session.", e.with("id", 0))
	s.refused("error", "no-code", "An empty code.", e.with("code", ""))
	s.refused("error", "long-code", "A code of 65 bytes.", e.with("code", strings.Repeat("c", 65)))
	s.refused("error", "long-text", "A text of 16,385 bytes.", e.with("message", strings.Repeat("m", 16385)))
	l := object{{"id", 1}, {"stream", "stdout"}, {"data", []byte("hello\n")}}
	s.message("log", "stdout", "What a handler printed.", l)
	s.accepted("log", "stderr", "Not even UTF-8.", l.with("stream", "stderr").with("data", []byte{0xff, 0xfe}))
	s.refused("log", "unknown-stream", "Another stream.", l.with("stream", "stdin"))
	s.refused("log", "nothing", "No bytes.", l.with("data", []byte{}))
	s.refused("log", "too-much", "16,385 bytes.", l.with("data", make([]byte, 16385)))
	a := object{{"fn", hashBytes("fn")}, {"manifest", []byte("manifest")}, {"sig", bytesOf("sig", 64)}, {"key", hashBytes("key")},
		{"python", "3.11"}, {"platform", "linux-x86_64"}, {"limits", limitsObject()}}
	s.message("accepted", "signed", "A signed function.", a)
	s.accepted("accepted", "unsigned", "A function without an account.", a.with("sig", nil).with("key", nil))
	s.accepted("accepted", "no-function", "Accepted for a deploy or a test.", a.with("fn", nil).with("manifest", nil).with("sig", nil).with("key", nil))
	s.refused("accepted", "sig-without-key", "A signature without its key.", a.with("key", nil))
	s.refused("accepted", "key-without-sig", "A key without a signature.", a.with("sig", nil))
	s.refused("accepted", "manifest-without-fn", "A manifest without its function.", a.with("fn", nil))
	s.refused("accepted", "fn-without-manifest", "A function without its manifest.", a.with("manifest", nil).with("sig", nil).with("key", nil))
	s.refused("accepted", "sig-without-fn", "A signature of nothing.", a.with("fn", nil).with("manifest", nil))
	s.refused("accepted", "empty-manifest", "An empty manifest.", a.with("manifest", []byte{}))
	d := object{{"id", "2222222222222222222222"}, {"checksum", hashBytes("fn")}}
	s.message("deployed", "plain", "A function was stored.", d)
	s.refused("deployed", "short-id", "Not an id.", d.with("id", "222222222222222222222"))
	s.refused("deployed", "odd-id", "A character that ids do not have.", d.with("id", "0222222222222222222222"))
	s.refused("deployed", "short-checksum", "A checksum of 31 bytes.", d.with("checksum", bytesOf("fn", 31)))
}

func endRecords(s *set) {
	sums := object{{"input", hashBytes("in")}, {"function", hashBytes("fn")}, {"output", hashBytes("out")}}
	openings := object{{"in", hashBytes("open in")}, {"out", hashBytes("open out")}}
	e := object{{"id", 1}, {"checksums", sums}, {"receipt", []byte("receipt")}, {"openings", openings}}
	s.message("enclave-end", "plain", "The end of an output.", e)
	s.refused("enclave-end", "id-0", "Ids count from 1.", e.with("id", 0))
	s.refused("enclave-end", "no-sums", "A checksum is missing.", e.with("checksums", sums.without("output")))
	s.refused("enclave-end", "short-sum", "A checksum of 31 bytes.", e.with("checksums", sums.with("input", bytesOf("in", 31))))
	s.refused("enclave-end", "empty-receipt", "No receipt.", e.with("receipt", []byte{}))
	s.refused("enclave-end", "large-receipt", "A receipt of 1,025 bytes.", e.with("receipt", make([]byte, 1025)))
	s.refused("enclave-end", "short-opening", "A key of 31 bytes.", e.with("openings", openings.with("in", bytesOf("in", 31))))
	r := receiptObject()
	s.message("receipt", "first", "The first receipt of a session.", r)
	s.accepted("receipt", "second", "One that follows another.", r.with("prev", hashBytes("prev")))
	s.refused("receipt", "version-1", "Another version.", r.with("v", 1))
	s.refused("receipt", "id-0", "Ids count from 1.", r.with("id", 0))
	s.refused("receipt", "short-prev", "A hash of 31 bytes.", r.with("prev", bytesOf("prev", 31)))
	s.refused("receipt", "no-route", "An empty route.", r.with("route", ""))
	s.refused("receipt", "negative-time", "Before 1970.", r.with("time", -1))
}
