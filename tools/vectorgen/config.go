package main

import (
	"crypto/sha512"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

func limitsObject() object {
	return object{{"memory", 2 << 30}, {"scratch", 1 << 30}, {"procs", 64}, {"call_ms", 60000}, {"input", 1 << 30},
		{"output", 1 << 30}, {"zip", 1000000000}, {"tree", 4000000000}, {"cache", 4 << 30},
		{"files", 1024}, {"cpu", 4000}}
}

func trustObject() object {
	return object{{"issuers", []any{issuerObject()}}, {"role", "arn:aws:iam::111122223333:role/cape"}}
}

func issuerObject() object {
	return object{{"iss", "https://issuer.example"}, {"jwks", nil}, {"signer", hashBytes("signer")}}
}

func configObject() object {
	return object{{"trust", trustObject()}, {"kms", "arn:aws:kms:eu-west-1:111122223333:key/12345678-1234-1234-1234-123456789012"}, {"limits", limitsObject()}}
}

// measured is what is extended into PCR16 for a trust, and what it is then.
func measured(trust object) (m, pcr []byte) {
	sum := sha512.Sum384(append([]byte("cape trust 1\x00"), trust.encode()...))
	after := sha512.Sum384(append(make([]byte, 48), sum[:]...))
	return sum[:], after[:]
}

func configs(s *set, _ *keyring) {
	good := func(name, about string, trust object, change func(object) object) {
		c := change(configObject().with("trust", trust))
		m, pcr := measured(trust)
		s.ok(name, about, vectors.ConfigInput{Config: c.encode()}, vectors.ConfigOutput{Value: c.view(), Measurement: m, PCR16: pcr})
	}
	same := func(o object) object { return o }
	byURL := issuerObject().with("jwks", "https://issuer.example/jwks").with("signer", nil)
	good("signed-keys", "An issuer whose keys the host hands over, signed.", trustObject(), same)
	good("keys-by-url", "An issuer whose keys come from a URL.", trustObject().with("issuers", []any{byURL}), same)
	good("two-issuers", "Two issuers: their order is measured.", trustObject().with("issuers", []any{issuerObject(), byURL}), same)
	good("two-issuers-in-another-order", "The same two: another measurement.", trustObject().with("issuers", []any{byURL, issuerObject()}), same)
	good("kms-to-be-made", "An enclave that is to make its key.", trustObject(), func(o object) object { return o.with("kms", "") })
	good("lower-limits", "Limits below the ceilings: the same measurement.", trustObject(), func(o object) object {
		return o.with("limits", limitsObject().with("call_ms", 1).with("input", 1))
	})
	refuse := func(name, about string, o object) {
		s.fail(name, about, vectors.ConfigInput{Config: o.encode()}, "malformed")
	}
	for how, raw := range configObject().spoilt() {
		s.fail(how, "The configuration "+strings.ReplaceAll(how, "-", " ")+".", vectors.ConfigInput{Config: raw}, "malformed")
	}
	c := configObject()
	issuer := func(o object) object { return c.with("trust", trustObject().with("issuers", []any{o})) }
	limit := func(key string, value int) object { return c.with("limits", limitsObject().with(key, value)) }
	refuse("no-issuers", "No issuer.", c.with("trust", trustObject().with("issuers", []any{})))
	refuse("no-role", "No role.", c.with("trust", trustObject().with("role", "")))
	refuse("trust-with-more", "An unknown key in trust.", c.with("trust", trustObject().with("admin", nil)))
	refuse("unnamed-issuer", "An issuer without a name.", issuer(issuerObject().with("iss", "")))
	refuse("issuer-without-keys", "Neither URL nor signer.", issuer(issuerObject().with("signer", nil)))
	refuse("issuer-with-both", "Both URL and signer.", issuer(issuerObject().with("jwks", "https://issuer.example/jwks")))
	refuse("short-signer", "A signer of 31 bytes.", issuer(issuerObject().with("signer", bytesOf("signer", 31))))
	refuse("empty-signer", "A signer of no bytes beside a URL.", issuer(issuerObject().with("jwks", "https://issuer.example/jwks").with("signer", []byte{})))
	refuse("no-memory", "A limit of zero.", limit("memory", 0))
	refuse("input-above-ceiling", "A limit above its ceiling.", limit("input", 1<<30+1))
	refuse("negative-limit", "A negative limit.", limit("procs", -1))
	refuse("limits-without-one", "A limit is missing.", c.with("limits", limitsObject().without("cache")))
	s.fail("too-large", "More than 64 KiB.", vectors.ConfigInput{Config: issuer(issuerObject().with("iss", strings.Repeat("i", 65<<10))).encode()}, "malformed")
}
