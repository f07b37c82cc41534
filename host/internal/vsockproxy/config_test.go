package vsockproxy

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseConfig(t *testing.T) {
	kms := Endpoint{Host: "kms.us-east-1.amazonaws.com", Port: 443}
	for _, tc := range []struct {
		name, text string
		want       File
	}{
		{"empty", "", File{}},
		{"as AWS ships it", "allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n- {address: kms-fips.us-east-1.amazonaws.com, port: 443}\n",
			File{Allow: []Endpoint{kms, {Host: "kms-fips.us-east-1.amazonaws.com", Port: 443}}}},
		{"block form", "allowlist:\n  - address: kms.us-east-1.amazonaws.com\n    port: 443\n  -  port: 80\n     address: \"10.0.0.1\"\n     allow_private: true\n",
			File{Allow: []Endpoint{kms, {Host: "10.0.0.1", Port: 80, AllowPrivate: true}}}},
		{"comments and blank lines", "---\n# what may be reached\n\nallowlist: # here\n\n- {address: 'kms.us-east-1.amazonaws.com', port: 443} # KMS\n   # end\n",
			File{Allow: []Endpoint{kms}}},
		{"Windows line ends", "allowlist:\r\n- {address: kms.us-east-1.amazonaws.com, port: 443}\r\n", File{Allow: []Endpoint{kms}}},
		{"empty lists", "allowlist: []\nendpoints: []\n", File{}},
		{"endpoints", "endpoints:\n- {local_port: 8000, address: kms.us-east-1.amazonaws.com, port: 443}\nallowlist:\n- {address: \"::1\", port: 1, allow_private: false}\n",
			File{Allow: []Endpoint{{Host: "::1", Port: 1}}, Endpoints: []Listen{{8000, kms}}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseConfig([]byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tc.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestParseConfigRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"unknown section":       "denylist:\n- {address: a, port: 1}\n",
		"section twice":         "allowlist:\n- {address: a, port: 1}\nallowlist:\n",
		"scalar in place":       "allowlist: all\n",
		"item outside":          "- {address: a, port: 1}\n",
		"item after empty list": "allowlist: []\n- {address: a, port: 1}\n",
		"unknown key":           "allowlist:\n- {address: a, port: 1, allow: true}\n",
		"key twice":             "allowlist:\n- {address: a, address: b, port: 1}\n",
		"no port":               "allowlist:\n- {address: a}\n",
		"no address":            "allowlist:\n- {port: 1}\n",
		"port 0":                "allowlist:\n- {address: a, port: 0}\n",
		"port too high":         "allowlist:\n- {address: a, port: 65536}\n",
		"port a word":           "allowlist:\n- {address: a, port: https}\n",
		"wildcard":              "allowlist:\n- {address: *.amazonaws.com, port: 443}\n",
		"URL":                   "allowlist:\n- {address: https://a, port: 443}\n",
		"network":               "allowlist:\n- {address: 10.0.0.0/8, port: 443}\n",
		"zone":                  "allowlist:\n- {address: a b, port: 443}\n",
		"braces open":           "allowlist:\n- {address: a,\n  port: 1}\n",
		"empty value":           "allowlist:\n- {address: , port: 1}\n",
		"anchor":                "allowlist:\n- &x {address: a, port: 1}\n",
		"private maybe":         "allowlist:\n- {address: a, port: 1, allow_private: yes}\n",
		"tab":                   "allowlist:\n-\t{address: a, port: 1}\n",
		"uneven list":           "allowlist:\n- {address: a, port: 1}\n  - {address: b, port: 1}\n",
		"uneven item":           "allowlist:\n- address: a\n   port: 1\n",
		"stray line":            "allowlist:\n  address: a\n",
		"local port in list":    "allowlist:\n- {local_port: 1, address: a, port: 1}\n",
		"endpoint without":      "endpoints:\n- {address: a, port: 1}\n",
		"local port 0":          "endpoints:\n- {local_port: 0, address: a, port: 1}\n",
		"local port any":        "endpoints:\n- {local_port: 4294967295, address: a, port: 1}\n",
		"local port twice":      "endpoints:\n- {local_port: 1, address: a, port: 1}\n- {local_port: 1, address: b, port: 1}\n",
		"not UTF-8":             "allowlist:\n- {address: \xff, port: 1}\n",
		"too large":             strings.Repeat("#", maxConfig+1),
		"too many":              "allowlist:\n" + strings.Repeat("- {address: a, port: 1}\n", maxEntries+1),
		"second document":       "allowlist:\n---\nendpoints:\n",
		"cut short":             "allowlist:\n- address: a\n",
	} {
		t.Run(name, func(t *testing.T) {
			if f, err := ParseConfig([]byte(text)); !errors.Is(err, ErrConfig) {
				t.Errorf("got %+v, %v", f, err)
			}
		})
	}
	if _, err := ReadConfig(filepath.Join(t.TempDir(), "none")); !errors.Is(err, ErrConfig) {
		t.Errorf("missing file: %v", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("allowlist:\n- {address: kms.us-east-1.amazonaws.com, port: 443}\n"))
	f.Add([]byte("endpoints:\n  - local_port: 8000\n    address: '::1'\n    port: 443\n    allow_private: true\n"))
	f.Add([]byte("allowlist: []\n#x\n---"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := ParseConfig(text)
		if err != nil {
			if !errors.Is(err, ErrConfig) {
				t.Fatalf("unclassified error %v", err)
			}
			return
		}
		for _, e := range file.Allow {
			if _, err := New(Config{Allow: []Endpoint{e}}); err != nil {
				t.Fatalf("parsed %+v, which is refused: %v", e, err)
			}
		}
		if len(file.Allow)+len(file.Endpoints) > strings.Count(string(text), "- ") {
			t.Fatal("more entries than dashes")
		}
	})
}
