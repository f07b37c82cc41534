package keypolicy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/attest/nitro"
)

func pcr(i int) nitro.PCR { return nitro.Extend(nitro.PCR{}, fmt.Append(nil, i)) }

// sorted PCRs of the numbers from first on.
func pcrList(first, n int) []nitro.PCR {
	var out []nitro.PCR
	for i := range n {
		out = append(out, pcr(first+i))
	}
	slices.SortFunc(out, func(a, b nitro.PCR) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func minimal() Params {
	return Params{
		Partition: "aws", AccountID: "111122223333", Role: "arn:aws:iam::111122223333:role/cape",
		PCR8: pcrList(80, 1), PCR16: pcr(16),
	}
}

func full() Params {
	p := minimal()
	p.Role = "arn:aws:iam::111122223333:role/service/cape/Enclave_1+2=3,4.5@6-7"
	p.Admins = []string{"arn:aws:iam::111122223333:role/admin", "arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:user/a/b"}
	p.PCR0, p.PCR8 = pcrList(0, 3), pcrList(80, 2)
	return p
}

// largest has as much of everything as is allowed; it must fit into MaxSize.
func largest() Params {
	p := full()
	p.Role = "arn:aws:iam::111122223333:role/" + strings.Repeat("p/", (maxARN-32)/2) + "r"
	p.PCR0, p.PCR8, p.Admins = pcrList(0, MaxPCR0), pcrList(80, MaxPCR8), nil
	for i := range MaxAdmins {
		p.Admins = append(p.Admins, fmt.Sprintf("arn:aws:iam::111122223333:user/%s%03d", strings.Repeat("p/", (maxARN-35)/2), i))
	}
	return p
}

func render(t testing.TB, p Params) []byte {
	t.Helper()
	b, err := Render(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRoundTrip(t *testing.T) {
	china := minimal()
	china.Partition, china.Role = "aws-cn", "arn:aws-cn:iam::111122223333:role/cape"
	for _, tc := range []struct {
		name string
		p    Params
	}{{"minimal", minimal()}, {"full", full()}, {"largest", largest()}, {"another partition", china}} {
		t.Run(tc.name, func(t *testing.T) {
			policy := render(t, tc.p)
			if len(policy) > MaxSize {
				t.Errorf("%d bytes", len(policy))
			}
			got, err := Parse(policy)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.p, got); diff != "" {
				t.Error(diff)
			}
			var compact bytes.Buffer
			if err := json.Compact(&compact, policy); err != nil {
				t.Fatal(err)
			}
			if got, err := Parse(compact.Bytes()); err != nil || !cmp.Equal(tc.p, got) {
				t.Errorf("without white space: %v", err)
			}
		})
	}
}

func TestRenderRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(p *Params)
	}{
		{"zero value", func(p *Params) { *p = Params{} }},
		{"no role", func(p *Params) { p.Role = "" }},
		{"role is everybody", func(p *Params) { p.Role = "*" }},
		{"role with a wildcard", func(p *Params) { p.Role = "arn:aws:iam::111122223333:role/*" }},
		{"role with a policy variable", func(p *Params) { p.Role = "arn:aws:iam::111122223333:role/${aws:username}" }},
		{"role is the account", func(p *Params) { p.Role = "arn:aws:iam::111122223333:root" }},
		{"role is a user", func(p *Params) { p.Role = "arn:aws:iam::111122223333:user/cape" }},
		{"role is a session", func(p *Params) { p.Role = "arn:aws:sts::111122223333:assumed-role/cape/s" }},
		{"role of another account", func(p *Params) { p.Role = "arn:aws:iam::444455556666:role/cape" }},
		{"role of another partition", func(p *Params) { p.Role = "arn:aws-cn:iam::111122223333:role/cape" }},
		{"role with a line break", func(p *Params) { p.Role += "\n" }},
		{"role with a name too long", func(p *Params) { p.Role += strings.Repeat("x", 65) }},
		{"role with a path too long", func(p *Params) { p.Role = "arn:aws:iam::111122223333:role/" + strings.Repeat("p/", 400) + "cape" }},
		{"unknown partition", func(p *Params) {
			p.Partition, p.Role = "aws-x", "arn:aws-x:iam::111122223333:role/cape"
		}},
		{"no PCR8", func(p *Params) { p.PCR8 = nil }},
		{"PCR8 of unsigned images", func(p *Params) { p.PCR8 = append(p.PCR8, nitro.PCR{}) }},
		{"PCR8 twice", func(p *Params) { p.PCR8 = append(p.PCR8, p.PCR8[0]) }},
		{"too many PCR8", func(p *Params) { p.PCR8 = pcrList(80, MaxPCR8+1) }},
		{"PCR0 of debug mode", func(p *Params) { p.PCR0 = []nitro.PCR{{}} }},
		{"PCR0 twice", func(p *Params) { p.PCR0 = []nitro.PCR{pcr(0), pcr(0)} }},
		{"too many PCR0", func(p *Params) { p.PCR0 = pcrList(0, MaxPCR0+1) }},
		{"no PCR16", func(p *Params) { p.PCR16 = nitro.PCR{} }},
		{"administrator is everybody", func(p *Params) { p.Admins = []string{"*"} }},
		{"administrator of another account", func(p *Params) { p.Admins = []string{"arn:aws:iam::444455556666:root"} }},
		{"administrator twice", func(p *Params) { p.Admins = append(p.Admins, p.Admins[0]) }},
		{"administrator is empty", func(p *Params) { p.Admins = []string{""} }},
		{"administrator too long", func(p *Params) {
			p.Admins = []string{"arn:aws:iam::111122223333:user/" + strings.Repeat("p/", 400) + "a"}
		}},
		{"too many administrators", func(p *Params) {
			p.Admins = append(largest().Admins, "arn:aws:iam::111122223333:root")
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := full()
			tc.change(&p)
			b, err := Render(p)
			if b != nil || !errors.Is(err, ErrParams) {
				t.Errorf("got %d bytes, %v", len(b), err)
			}
		})
	}
}

// The template in spec/, filled in, is what Render writes.
func TestSpecTemplate(t *testing.T) {
	raw, err := os.ReadFile("../../spec/kek-policy.template.json")
	if err != nil {
		t.Fatal(err)
	}
	p := full()
	list := func(items []string) string {
		b, err := json.Marshal(items)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	filled := strings.NewReplacer(`["${pcr0}"]`, list(texts(p.PCR0)), `["${pcr8}"]`, list(texts(p.PCR8)), `${pcr16}`, p.PCR16.String(),
		`${role}`, p.Role, `["${admins}"]`, list(p.Admins)).Replace(string(raw))
	var want, got any
	if err := json.Unmarshal([]byte(filled), &want); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(render(t, p), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type object = map[string]any
