package keypolicy

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// mutate renders p, hands the parsed policy and its statements by Sid to change, and
// encodes what is left.
func mutate(t *testing.T, p Params, change func(doc object, sid map[string]object)) []byte {
	t.Helper()
	var doc object
	if err := json.Unmarshal(render(t, p), &doc); err != nil {
		t.Fatal(err)
	}
	sid := map[string]object{}
	for _, s := range doc["Statement"].([]any) {
		sid[s.(object)["Sid"].(string)] = s.(object)
	}
	change(doc, sid)
	b, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func drop(doc object, sid string) {
	doc["Statement"] = slices.DeleteFunc(doc["Statement"].([]any), func(s any) bool { return s.(object)["Sid"] == sid })
}

func TestParseRefuses(t *testing.T) {
	type change func(doc object, sid map[string]object)
	cases := map[string]change{
		"one more statement": func(doc object, _ map[string]object) {
			doc["Statement"] = append(doc["Statement"].([]any), object{"Sid": "More", "Effect": "Allow", "Principal": object{"AWS": "arn:aws:iam::111122223333:root"}, "Action": "kms:*", "Resource": "*"})
		},
		"one more Deny": func(doc object, sid map[string]object) {
			doc["Statement"] = append(doc["Statement"].([]any), object{"Sid": "More", "Effect": "Deny", "Principal": object{"AWS": "*"}, "Action": "kms:Decrypt", "Resource": "*"})
		},
		"a statement twice": func(doc object, sid map[string]object) {
			doc["Statement"] = append(doc["Statement"].([]any), sid["AllowUseByEnclaves"])
		},
		"a second role by a second statement": func(doc object, sid map[string]object) {
			doc["Statement"] = append([]any{object{"Sid": "AllowUseByEnclaves", "Effect": "Allow", "Principal": object{"AWS": "arn:aws:iam::111122223333:role/evil"}, "Action": "kms:Decrypt", "Resource": "*"}}, doc["Statement"].([]any)...)
		},
		"statements in another order": func(doc object, _ map[string]object) { slices.Reverse(doc["Statement"].([]any)) },
		"statements as one object":    func(doc object, sid map[string]object) { doc["Statement"] = sid["AllowUseByEnclaves"] },
		"no statement":                func(doc object, _ map[string]object) { doc["Statement"] = []any{} },
		"another version":             func(doc object, _ map[string]object) { doc["Version"] = "2008-10-17" },
		"another id":                  func(doc object, _ map[string]object) { doc["Id"] = "cape-kek-2" },
		"more in the document":        func(doc object, _ map[string]object) { doc["Comment"] = "x" },
		"PCR16 denied another":        func(_ object, sid map[string]object) { setValue(sid["DenyOtherTrust"], keyPCR16, pcr(99).String()) },
		"PCR16 allowed another":       func(_ object, sid map[string]object) { setValue(sid["AllowUseByEnclaves"], keyPCR16, pcr(99).String()) },
		"two PCR16": func(_ object, sid map[string]object) {
			for _, s := range []string{"DenyOtherTrust", "AllowUseByEnclaves"} {
				setValue(sid[s], keyPCR16, []any{pcr(16).String(), pcr(99).String()})
			}
		},
		"PCR8 zero in addition": func(_ object, sid map[string]object) {
			for _, s := range []string{"DenyOtherPublishers", "AllowUseByEnclaves"} {
				setValue(sid[s], keyPCR8, []any{pcr(80).String(), nitro.PCR{}.String()})
			}
		},
		"PCR8 a wildcard": func(_ object, sid map[string]object) {
			for _, s := range []string{"DenyOtherPublishers", "AllowUseByEnclaves"} {
				setValue(sid[s], keyPCR8, "*")
			}
		},
		"PCR8 in capitals": func(_ object, sid map[string]object) {
			setValue(sid["DenyOtherPublishers"], keyPCR8, strings.ToUpper(pcr(80).String()))
		},
		"PCR0 list of Deny longer":   func(_ object, sid map[string]object) { setValue(sid["DenyOtherImages"], keyPCR0, texts(pcrList(0, 4))) },
		"PCR0 Deny gone":             func(doc object, _ map[string]object) { drop(doc, "DenyOtherImages") },
		"PCR0 Allow condition gone":  func(_ object, sid map[string]object) { delete(cond(sid["AllowUseByEnclaves"]), keyPCR0) },
		"role of Allow is everybody": func(_ object, sid map[string]object) { sid["AllowUseByEnclaves"]["Principal"] = object{"AWS": "*"} },
		"principal of Allow is *":    func(_ object, sid map[string]object) { sid["AllowUseByEnclaves"]["Principal"] = "*" },
		"principal of inspection is *": func(_ object, sid map[string]object) {
			sid["AllowInspectionByEnclaves"]["Principal"] = object{"AWS": "*"}
		},
		"two roles": func(_ object, sid map[string]object) {
			for _, s := range []string{"AllowUseByEnclaves", "AllowInspectionByEnclaves"} {
				sid[s]["Principal"] = object{"AWS": []any{"arn:aws:iam::111122223333:role/cape", "arn:aws:iam::111122223333:role/evil"}}
			}
		},
		"another role inspects": func(_ object, sid map[string]object) {
			sid["AllowInspectionByEnclaves"]["Principal"] = object{"AWS": "arn:aws:iam::111122223333:role/evil"}
		},
		"service principal in addition": func(_ object, sid map[string]object) {
			sid["AllowUseByEnclaves"]["Principal"].(object)["Service"] = "ec2.amazonaws.com"
		},
		"deleted role": func(_ object, sid map[string]object) {
			for _, s := range []string{"AllowUseByEnclaves", "AllowInspectionByEnclaves"} {
				sid[s]["Principal"] = object{"AWS": "AROAEXAMPLEEXAMPLE"}
			}
		},
		"administrators may decrypt": func(_ object, sid map[string]object) {
			a := sid["AllowAdministration"]
			a["Action"] = append(a["Action"].([]any), "kms:Decrypt")
		},
		"administrators without a list": func(_ object, sid map[string]object) {
			sid["AllowAdministration"]["Principal"] = object{"AWS": []any{}}
		},
		"administrators everybody": func(_ object, sid map[string]object) { sid["AllowAdministration"]["Principal"] = object{"AWS": "*"} },
		"administrators a number":  func(_ object, sid map[string]object) { sid["AllowAdministration"]["Principal"] = object{"AWS": 7} },
	}
	for _, s := range []string{"DenyWhatCannotBeAttested", "DenyDebugMode", "DenyOtherPublishers", "DenyOtherTrust", "AllowUseByEnclaves", "AllowInspectionByEnclaves"} {
		cases[s+" is missing"] = func(doc object, _ map[string]object) { drop(doc, s) }
		cases[s+" has another effect"] = func(_ object, sid map[string]object) {
			sid[s]["Effect"] = map[any]string{"Deny": "Allow", "Allow": "Deny"}[sid[s]["Effect"]]
		}
		cases[s+" has another resource"] = func(_ object, sid map[string]object) { sid[s]["Resource"] = "arn:aws:kms:eu-west-1:111122223333:key/x" }
		cases[s+" has NotAction"] = func(_ object, sid map[string]object) {
			sid[s]["NotAction"] = sid[s]["Action"]
			delete(sid[s], "Action")
		}
		cases[s+" has NotPrincipal"] = func(_ object, sid map[string]object) {
			sid[s]["NotPrincipal"] = sid[s]["Principal"]
			delete(sid[s], "Principal")
		}
		cases[s+" has NotResource"] = func(_ object, sid map[string]object) { sid[s]["NotResource"] = "x" }
		cases[s+" has an action less"] = func(_ object, sid map[string]object) { sid[s]["Action"] = sid[s]["Action"].([]any)[1:] }
		cases[s+" has an action more"] = func(_ object, sid map[string]object) {
			sid[s]["Action"] = append(sid[s]["Action"].([]any), "kms:TagResource")
		}
		cases[s+" has an action twice"] = func(_ object, sid map[string]object) {
			sid[s]["Action"] = append(sid[s]["Action"].([]any), sid[s]["Action"].([]any)[0])
		}
		cases[s+" has another Sid"] = func(_ object, sid map[string]object) { sid[s]["Sid"] = "Other" }
		cases[s+" has no Sid"] = func(_ object, sid map[string]object) { delete(sid[s], "Sid") }
		cases[s+" has a condition more"] = func(_ object, sid map[string]object) {
			c, _ := sid[s]["Condition"].(object)
			sid[s]["Condition"] = object{"Bool": object{"aws:SecureTransport": "true"}}
			for op, v := range c {
				sid[s]["Condition"].(object)[op] = v
			}
		}
		cases[s+" has an empty condition"] = func(_ object, sid map[string]object) { sid[s]["Condition"] = object{} }
	}
	for _, s := range []string{"DenyDebugMode", "DenyOtherPublishers", "DenyOtherTrust", "AllowUseByEnclaves"} {
		cases[s+" has no condition"] = func(_ object, sid map[string]object) { delete(sid[s], "Condition") }
		for _, op := range []string{"StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringNotEqualsIgnoreCaseIfExists",
			"ForAllValues:StringNotEqualsIgnoreCase", "ForAnyValue:StringEqualsIgnoreCase", "Null"} {
			cases[s+" has operator "+op] = func(_ object, sid map[string]object) {
				sid[s]["Condition"] = object{op: cond(sid[s])}
			}
		}
		cases[s+" has another condition key"] = func(_ object, sid map[string]object) {
			c := cond(sid[s])
			for k, v := range c {
				delete(c, k)
				c["kms:RecipientAttestation:PCR4"] = v
			}
		}
		cases[s+" has keys of NitroTPM"] = func(_ object, sid map[string]object) {
			c := cond(sid[s])
			for k, v := range c {
				delete(c, k)
				c[strings.Replace(k, ":PCR", ":NitroTPMPCR", 1)] = v
			}
		}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			policy := mutate(t, full(), c)
			if p, err := Parse(policy); !errors.Is(err, ErrPolicy) || !cmp.Equal(p, Params{}) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

func cond(statement object) object {
	for _, keys := range statement["Condition"].(object) {
		return keys.(object)
	}
	return nil
}

func setValue(statement object, key string, v any) { cond(statement)[key] = v }

func TestParseRefusesText(t *testing.T) {
	good := string(render(t, full()))
	for name, text := range map[string]string{
		"nothing":                      "",
		"null":                         "null",
		"a string":                     `"x"`,
		"a list":                       "[" + good + "]",
		"another policy after it":      good + good,
		"a comma after it":             good + ",",
		"cut":                          good[:len(good)-2],
		"a key twice, the same":        strings.Replace(good, `"Version"`, `"Version": "2012-10-17", "Version"`, 1),
		"an effect twice":              strings.Replace(good, `"Effect": "Deny"`, `"Effect": "Allow", "Effect": "Deny"`, 1),
		"a key twice, escaped":         strings.Replace(good, `"Effect": "Deny"`, `"\u0045ffect": "Allow", "Effect": "Deny"`, 1),
		"keys in small letters":        strings.ReplaceAll(good, `"Effect"`, `"effect"`),
		"a comment":                    strings.Replace(good, "{", "{ // x\n", 1),
		"the default policy":           `{"Version":"2012-10-17","Id":"key-default-1","Statement":[{"Sid":"Enable IAM User Permissions","Effect":"Allow","Principal":{"AWS":"arn:aws:iam::111122223333:root"},"Action":"kms:*","Resource":"*"}]}`,
		"deep nesting":                 strings.Repeat(`{"Statement":[`, 1000) + strings.Repeat("]}", 1000),
		"too large":                    good + strings.Repeat(" ", MaxSize),
		"invalid UTF-8":                strings.Replace(good, "cape-kek-1", "cape-kek-1\xff", 1),
		"byte order mark":              "\ufeff" + good,
		"a look-alike of a key":        strings.Replace(good, "Effect", "Effеct", 1),
		"PCR0 as an object":            strings.Replace(good, `"kms:RecipientAttestation:PCR0": [`, `"kms:RecipientAttestation:PCR0": [{},`, 1),
		"NotAction beside Action":      strings.Replace(good, `"Resource": "*"`, `"Resource": "*", "NotAction": "kms:Decrypt"`, 1),
		"an escaped slash in the role": strings.Replace(good, "role/service", `role\/service\u002F..`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := Parse([]byte(text)); !errors.Is(err, ErrPolicy) || !cmp.Equal(p, Params{}) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
	}
}

// What a KMS may change in a text without changing what it means.
func TestParseAccepts(t *testing.T) {
	p := full()
	reordered := mutate(t, p, func(_ object, sid map[string]object) {
		for _, s := range sid {
			slices.Reverse(s["Action"].([]any))
			if list, ok := s["Principal"].(object)["AWS"].([]any); ok {
				slices.Reverse(list)
			}
		}
		slices.Reverse(cond(sid["AllowUseByEnclaves"])[keyPCR8].([]any))
	})
	if got, err := Parse(reordered); err != nil || !cmp.Equal(p, got) {
		t.Errorf("lists in another order: %v", err)
	}
	lists := mutate(t, minimal(), func(_ object, sid map[string]object) {
		sid["DenyDebugMode"]["Principal"] = object{"AWS": []any{"*"}}
		setValue(sid["DenyOtherTrust"], keyPCR16, []any{pcr(16).String()})
	})
	if _, err := Parse(lists); err != nil {
		t.Errorf("lists of one: %v", err)
	}
	escaped := bytes.Replace(render(t, p), []byte(`"Effect"`), []byte(`"\u0045ffect"`), 1)
	if _, err := Parse(escaped); err != nil {
		t.Errorf("escapes: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, p := range []Params{minimal(), full()} {
		policy := render(f, p)
		f.Add(policy)
		f.Add(bytes.Replace(policy, []byte("Deny"), []byte("Allow"), 1))
		f.Add(policy[:len(policy)/2])
	}
	f.Add([]byte(`{"Statement":[{"Sid":{"Sid":"x"},"Principal":[],"Condition":7}]}`))
	f.Fuzz(func(t *testing.T, policy []byte) {
		p, err := Parse(policy)
		if err != nil {
			if !errors.Is(err, ErrPolicy) {
				t.Fatal("an error of no class")
			}
			return
		}
		again, err := Parse(render(t, p))
		if err != nil || !cmp.Equal(p, again) {
			t.Fatalf("not the same again: %v", err)
		}
		if err := p.validate(); err != nil {
			t.Fatal(err)
		}
	})
}
