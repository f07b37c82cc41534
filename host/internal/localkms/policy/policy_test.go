package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

const (
	testAccount = "111122223333"
	testRole    = "arn:aws:iam::111122223333:role/cape/runtime"
	testSession = "arn:aws:sts::111122223333:assumed-role/runtime/localkms"
	testKey     = "arn:aws:kms:us-east-1:111122223333:key/1234"
)

var runtimeRole = Principal{ARN: testRole, Session: testSession, Account: testAccount}

// statementJSON builds a statement from its variable parts.
func statementJSON(effect, principal, action, condition string) string {
	if condition != "" {
		condition = `,"Condition":` + condition
	}
	return fmt.Sprintf(`{"Effect":%q,"Principal":%s,"Action":%s,"Resource":"*"%s}`, effect, principal, action, condition)
}

func document(statements ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(statements, ",") + `]}`
}

func mustParse(t *testing.T, text string) *Policy {
	t.Helper()
	p, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func request(action string, who Principal, context map[string][]string) Request {
	return Request{Action: action, Resource: testKey, Principal: who, Context: context}
}

func TestDenyComesFirst(t *testing.T) {
	allow := statementJSON("Allow", `"*"`, `"kms:*"`, "")
	deny := statementJSON("Deny", `"*"`, `"kms:Encrypt"`, "")
	for _, text := range []string{document(allow, deny), document(deny, allow)} {
		p := mustParse(t, text)
		if got := p.Evaluate(request("kms:Encrypt", runtimeRole, nil)); got != Denied {
			t.Errorf("Encrypt: %v", got)
		}
		if got := p.Evaluate(request("kms:Decrypt", runtimeRole, nil)); got != Allowed {
			t.Errorf("Decrypt: %v", got)
		}
	}
	if got := mustParse(t, document(deny)).Evaluate(request("kms:Decrypt", runtimeRole, nil)); got != NotAllowed {
		t.Errorf("nothing allows Decrypt: %v", got)
	}
	var none Policy
	if got := none.Evaluate(request("kms:Decrypt", runtimeRole, nil)); got != NotAllowed {
		t.Errorf("zero policy: %v", got)
	}
}

func TestPrincipals(t *testing.T) {
	user := Principal{ARN: "arn:aws:iam::111122223333:user/ada", Account: testAccount}
	stranger := Principal{ARN: "arn:aws:iam::999999999999:role/cape/runtime", Session: "arn:aws:sts::999999999999:assumed-role/runtime/localkms", Account: "999999999999"}
	for _, tc := range []struct {
		principal string
		who       Principal
		want      bool
	}{
		{`"*"`, stranger, true},
		{`{"AWS":"*"}`, stranger, true},
		{`{"AWS":"` + testRole + `"}`, runtimeRole, true},
		{`{"AWS":"` + testSession + `"}`, runtimeRole, true},
		{`{"AWS":["arn:aws:iam::111122223333:role/other","` + testRole + `"]}`, runtimeRole, true},
		{`{"AWS":"arn:aws:iam::111122223333:root"}`, runtimeRole, true},
		{`{"AWS":"111122223333"}`, user, true},
		{`{"AWS":"arn:aws:iam::111122223333:root"}`, stranger, false},
		{`{"AWS":"` + testRole + `"}`, stranger, false},
		{`{"AWS":"` + testRole + `"}`, user, false},
		{`{"AWS":"arn:aws:iam::111122223333:role/cape"}`, runtimeRole, false},
		{`{"AWS":"arn:aws:iam::111122223333:role/cape/runtime2"}`, runtimeRole, false},
		{`{"AWS":"arn:aws:iam::111122223333:role/cape/RUNTIME"}`, runtimeRole, false},
		{`{"AWS":"arn:aws:sts::111122223333:assumed-role/runtime/other"}`, runtimeRole, false},
		{`{"Service":"ec2.amazonaws.com"}`, runtimeRole, false},
		{`{"Federated":"cognito-identity.amazonaws.com"}`, runtimeRole, false},
	} {
		p := mustParse(t, document(statementJSON("Allow", tc.principal, `"kms:*"`, "")))
		if got := p.Evaluate(request("kms:Decrypt", tc.who, nil)) == Allowed; got != tc.want {
			t.Errorf("%s for %s: %v, want %v", tc.principal, tc.who.ARN, got, tc.want)
		}
	}
}

func TestActionsAndResources(t *testing.T) {
	for _, tc := range []struct {
		part   string
		action string
		want   bool
	}{
		{`"Action":"kms:Decrypt","Resource":"*"`, "kms:Decrypt", true},
		{`"Action":"KMS:decrypt","Resource":"*"`, "kms:Decrypt", true},
		{`"Action":"*","Resource":"*"`, "kms:Decrypt", true},
		{`"Action":"kms:ReEncrypt*","Resource":"*"`, "kms:ReEncryptFrom", true},
		{`"Action":"kms:GenerateDataKey*WithoutPlaintext","Resource":"*"`, "kms:GenerateDataKeyWithoutPlaintext", true},
		{`"Action":"kms:GenerateDataKey*WithoutPlaintext","Resource":"*"`, "kms:GenerateDataKeyPairWithoutPlaintext", true},
		{`"Action":"kms:GenerateDataKey*WithoutPlaintext","Resource":"*"`, "kms:GenerateDataKey", false},
		{`"Action":"kms:?ecrypt","Resource":"*"`, "kms:Decrypt", true},
		{`"Action":"kms:?ecrypt","Resource":"*"`, "kms:Encrypt", false},
		{`"Action":["kms:Encrypt","s3:*"],"Resource":"*"`, "kms:Decrypt", false},
		{`"NotAction":"kms:Decrypt","Resource":"*"`, "kms:Decrypt", false},
		{`"NotAction":"kms:Decrypt","Resource":"*"`, "kms:Encrypt", true},
		{`"Action":"kms:*","Resource":"` + testKey + `"`, "kms:Decrypt", true},
		{`"Action":"kms:*","Resource":"arn:aws:kms:*:111122223333:key/*"`, "kms:Decrypt", true},
		{`"Action":"kms:*","Resource":"arn:aws:kms:us-east-1:111122223333:key/other"`, "kms:Decrypt", false},
		{`"Action":"kms:*","NotResource":"` + testKey + `"`, "kms:Decrypt", false},
	} {
		p := mustParse(t, document(`{"Effect":"Allow","Principal":"*",`+tc.part+`}`))
		if got := p.Evaluate(request(tc.action, runtimeRole, nil)) == Allowed; got != tc.want {
			t.Errorf("%s for %s: %v, want %v", tc.part, tc.action, got, tc.want)
		}
	}
}

func TestConditions(t *testing.T) {
	pcr := "kms:recipientattestation:pcr8"
	context := map[string][]string{
		pcr:                              {"abc123"},
		"kms:encryptioncontext:purpose":  {"Function"},
		"kms:encryptioncontextkeys":      {"Purpose", "Account"},
		"aws:principalarn":               {testRole},
		"aws:securetransport":            {"true"},
		"kms:requestalias":               {"alias/cape"},
		"kms:recipientattestation:pcr16": {"ffff"},
	}
	for _, tc := range []struct {
		condition string
		want      bool
	}{
		{`{"StringEquals":{"kms:RecipientAttestation:PCR8":"abc123"}}`, true},
		{`{"StringEquals":{"kms:recipientattestation:pcr8":["x","abc123"]}}`, true},
		{`{"StringEquals":{"kms:RecipientAttestation:PCR8":"ABC123"}}`, false},
		{`{"StringEqualsIgnoreCase":{"kms:RecipientAttestation:PCR8":"ABC123"}}`, true},
		{`{"StringNotEquals":{"kms:RecipientAttestation:PCR8":"abc123"}}`, false},
		{`{"StringNotEquals":{"kms:RecipientAttestation:PCR8":["abc123","x"]}}`, false},
		{`{"StringNotEquals":{"kms:RecipientAttestation:PCR8":"x"}}`, true},
		{`{"StringNotEqualsIgnoreCase":{"kms:RecipientAttestation:PCR8":"ABC123"}}`, false},
		// A key that the request does not have.
		{`{"StringEquals":{"kms:RecipientAttestation:PCR9":"abc123"}}`, false},
		{`{"StringLike":{"kms:RecipientAttestation:PCR9":"*"}}`, false},
		{`{"StringNotEquals":{"kms:RecipientAttestation:PCR9":"abc123"}}`, true},
		{`{"StringNotLike":{"kms:RecipientAttestation:PCR9":"*"}}`, true},
		{`{"StringEqualsIfExists":{"kms:RecipientAttestation:PCR9":"abc123"}}`, true},
		{`{"StringEqualsIfExists":{"kms:RecipientAttestation:PCR8":"x"}}`, false},
		{`{"StringNotEqualsIfExists":{"kms:RecipientAttestation:PCR8":"abc123"}}`, false},
		{`{"Null":{"kms:RecipientAttestation:PCR9":"true"}}`, true},
		{`{"Null":{"kms:RecipientAttestation:PCR9":false}}`, false},
		{`{"Null":{"kms:RecipientAttestation:PCR8":"false"}}`, true},
		{`{"Null":{"kms:EncryptionContextKeys":"false"}}`, true},
		// Several keys and operators are ANDed.
		{`{"StringEquals":{"kms:RecipientAttestation:PCR8":"abc123","kms:RecipientAttestation:PCR16":"ffff"}}`, true},
		{`{"StringEquals":{"kms:RecipientAttestation:PCR8":"abc123","kms:RecipientAttestation:PCR16":"0000"}}`, false},
		{`{"StringEquals":{"kms:RecipientAttestation:PCR8":"abc123"},"Bool":{"aws:SecureTransport":"false"}}`, false},
		// Wildcards work in Like alone.
		{`{"StringEquals":{"kms:RecipientAttestation:PCR8":"abc*"}}`, false},
		{`{"StringLike":{"kms:RecipientAttestation:PCR8":"abc*"}}`, true},
		{`{"StringLike":{"kms:RecipientAttestation:PCR8":"?b*3"}}`, true},
		{`{"StringNotLike":{"kms:RecipientAttestation:PCR8":"abc*"}}`, false},
		{`{"Bool":{"aws:SecureTransport":"True"}}`, true},
		{`{"Bool":{"aws:SecureTransport":true}}`, true},
		{`{"ArnEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/cape/*"}}`, true},
		{`{"ArnLike":{"aws:PrincipalArn":"arn:aws:iam::*:role/cape/runtime"}}`, true},
		{`{"ArnLike":{"aws:PrincipalArn":"arn:aws:*:role/cape/runtime:*:*:*"}}`, false},
		{`{"ArnNotLike":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/cape/*"}}`, false},
		{`{"ArnNotEquals":{"aws:PrincipalArn":"arn:aws:iam::111122223333:role/other"}}`, true},
		// Names of context keys are not case-sensitive, their values are.
		{`{"StringEquals":{"kms:EncryptionContext:PURPOSE":"Function"}}`, true},
		{`{"StringEquals":{"kms:EncryptionContext:purpose":"function"}}`, false},
		{`{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["Purpose","Account","More"]}}`, true},
		{`{"ForAllValues:StringEquals":{"kms:EncryptionContextKeys":["Purpose"]}}`, false},
		{`{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["Purpose"]}}`, true},
		{`{"ForAnyValue:StringEquals":{"kms:EncryptionContextKeys":["purpose"]}}`, false},
		{`{"ForAnyValue:StringNotEquals":{"kms:EncryptionContextKeys":["Purpose"]}}`, true},
		{`{"ForAllValues:StringNotEquals":{"kms:EncryptionContextKeys":["Purpose"]}}`, false},
		{`{"ForAllValues:StringEquals":{"aws:TagKeys":["a"]}}`, true},
		{`{"ForAnyValue:StringEquals":{"aws:TagKeys":["a"]}}`, false},
		// What is not understood never opens anything.
		{`{"StringEqualsX":{"kms:RecipientAttestation:PCR8":"abc123"}}`, false},
		{`{"StringNotEqualsX":{"kms:RecipientAttestation:PCR8":"x"}}`, false},
		{`{"stringequals":{"kms:RecipientAttestation:PCR8":"abc123"}}`, false},
		{`{"NullIfExists":{"kms:RecipientAttestation:PCR9":"true"}}`, false},
		{`{"NumericEquals":{"kms:RecipientAttestation:PCR8":"1"}}`, false},
		{`{"StringNotEquals":{"kms:RecipientAttestation:PCR32":"x"}}`, false},
		{`{"StringNotEquals":{"kms:RecipientAttestation:PCR08":"x"}}`, false},
		{`{"StringNotEquals":{"kms:Unknown":"x"}}`, false},
		{`{"Null":{"kms:Unknown":"true"}}`, false},
		{`{"StringEqualsIfExists":{"aws:Unknown":"x"}}`, false},
		{`{"StringNotEquals":{"kms:EncryptionContextKeys":"x"}}`, false},
		{`{"StringNotEquals":{"aws:PrincipalArn":"${aws:PrincipalArn}"}}`, false},
	} {
		p := mustParse(t, document(statementJSON("Allow", `"*"`, `"kms:*"`, tc.condition)))
		if got := p.Evaluate(request("kms:Decrypt", runtimeRole, context)) == Allowed; got != tc.want {
			t.Errorf("%s: %v, want %v", tc.condition, got, tc.want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := statementJSON("Allow", `"*"`, `"kms:*"`, "")
	deny := func(condition string) string { return document(statementJSON("Deny", `"*"`, `"kms:*"`, condition)) }
	for name, text := range map[string]string{
		"empty":                      "",
		"null":                       "null",
		"list":                       "[]",
		"text after":                 document(good) + "x",
		"second document":            document(good) + document(good),
		"not UTF-8":                  "{\"Statement\":\"\xff\"}",
		"too large":                  document(good) + strings.Repeat(" ", MaxSize),
		"deep":                       `{"Statement":` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + `}`,
		"very deep":                  strings.Repeat("[", 30_000),
		"unknown element":            `{"Version":"2012-10-17","Statements":[]}`,
		"unknown version":            `{"Version":"2020-01-01","Statement":[` + good + `]}`,
		"no statement":               `{"Version":"2012-10-17","Statement":[]}`,
		"statement missing":          `{"Version":"2012-10-17"}`,
		"duplicate element":          `{"Statement":[` + good + `],"Statement":[]}`,
		"duplicate effect":           `{"Statement":{"Effect":"Deny","Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}}`,
		"effect in lower case":       `{"Statement":{"Effect":"allow","Principal":"*","Action":"*","Resource":"*"}}`,
		"effect missing":             `{"Statement":{"Principal":"*","Action":"*","Resource":"*"}}`,
		"principal missing":          `{"Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}`,
		"NotPrincipal":               `{"Statement":{"Effect":"Deny","NotPrincipal":{"AWS":"` + testRole + `"},"Action":"*","Resource":"*"}}`,
		"principal by wildcard":      document(statementJSON("Allow", `{"AWS":"arn:aws:iam::111122223333:role/*"}`, `"kms:*"`, "")),
		"principal by name":          document(statementJSON("Allow", `{"AWS":"runtime"}`, `"kms:*"`, "")),
		"principal of unknown kind":  document(statementJSON("Allow", `{"aws":"*"}`, `"kms:*"`, "")),
		"principal a number":         document(statementJSON("Allow", `{"AWS":111122223333}`, `"kms:*"`, "")),
		"principal empty":            document(statementJSON("Allow", `{}`, `"kms:*"`, "")),
		"action missing":             `{"Statement":{"Effect":"Allow","Principal":"*","Resource":"*"}}`,
		"action and NotAction":       `{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","NotAction":"kms:X","Resource":"*"}}`,
		"action without service":     document(statementJSON("Allow", `"*"`, `"Decrypt"`, "")),
		"action list empty":          document(statementJSON("Allow", `"*"`, `[]`, "")),
		"resource missing":           `{"Statement":{"Effect":"Allow","Principal":"*","Action":"*"}}`,
		"resource no ARN":            `{"Statement":{"Effect":"Allow","Principal":"*","Action":"*","Resource":"key"}}`,
		"condition a list":           document(statementJSON("Allow", `"*"`, `"kms:*"`, `[]`)),
		"condition without keys":     document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"StringEquals":{}}`)),
		"condition without values":   document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"StringEquals":{"kms:KeySpec":[]}}`)),
		"condition value an object":  document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"StringEquals":{"kms:KeySpec":{}}}`)),
		"condition key twice":        document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"StringEquals":{"kms:KeySpec":"a","kms:keyspec":"b"}}`)),
		"Bool of text":               document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"Bool":{"aws:SecureTransport":"yes"}}`)),
		"Null of text":               document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"Null":{"kms:KeySpec":"maybe"}}`)),
		"ARN of text":                document(statementJSON("Allow", `"*"`, `"kms:*"`, `{"ArnLike":{"aws:PrincipalArn":"runtime"}}`)),
		"Sid twice":                  `{"Statement":[{"Sid":"a","Effect":"Allow","Principal":"*","Action":"*","Resource":"*"},{"Sid":"a","Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}`,
		"Deny, unknown operator":     deny(`{"StringEqualsX":{"kms:KeySpec":"x"}}`),
		"Deny, operator of dates":    deny(`{"DateLessThan":{"aws:CurrentTime":"2030-01-01T00:00:00Z"}}`),
		"Deny, unknown key":          deny(`{"StringEquals":{"kms:RecipientAttestation:PCR99":"x"}}`),
		"Deny, variable":             deny(`{"StringEquals":{"aws:PrincipalArn":"${aws:PrincipalArn}"}}`),
		"Deny, many without set":     deny(`{"StringEquals":{"kms:EncryptionContextKeys":"x"}}`),
		"Deny, variable in resource": `{"Statement":{"Effect":"Deny","Principal":"*","Action":"*","Resource":"arn:aws:kms:*:*:key/${aws:username}"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := Parse([]byte(text)); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, %v", p, err)
			}
		})
	}
}

func TestDepthIsBounded(t *testing.T) {
	for depth, want := range map[int]error{maxDepth: nil, maxDepth + 1: ErrMalformed} {
		if _, err := decodeStrict([]byte(strings.Repeat("[", depth) + strings.Repeat("]", depth))); !errors.Is(err, want) {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

func TestMatchIsNotExponential(t *testing.T) {
	if match(strings.Repeat("a*", 200)+"b", strings.Repeat("a", 2000)) {
		t.Error("matches")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(document(statementJSON("Allow", `"*"`, `"kms:*"`, "")), "kms:Decrypt", "kms:keyspec", "x")
	f.Add(document(statementJSON("Deny", `{"AWS":["`+testRole+`","111122223333"]}`, `["kms:Encrypt","kms:ReEncrypt*"]`,
		`{"ForAnyValue:StringNotLikeIfExists":{"kms:RecipientAttestation:PCR8":["a*","b?"]},"Null":{"kms:ViaService":"true"}}`)), "kms:Encrypt", "kms:recipientattestation:pcr8", "abc")
	f.Add(`{"Statement":{"Effect":"Allow","Principal":"*","NotAction":"kms:X","NotResource":"arn:*"}}`, "", "", "")
	f.Fuzz(func(t *testing.T, text, action, key, value string) {
		p, err := Parse([]byte(text))
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatalf("unclassified error %v", err)
			}
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatal("accepts what is not JSON")
		}
		r := request(action, runtimeRole, map[string][]string{key: {value}})
		if p.Evaluate(r) == Allowed && !strings.Contains(text, "Allow") {
			t.Fatal("allows without an Allow")
		}
		nobody := r
		nobody.Principal = Principal{}
		if p.Evaluate(nobody) == Allowed && !strings.Contains(text, `"*"`) {
			t.Fatal("allows a principal that has no name")
		}
	})
}
