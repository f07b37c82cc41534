package hostilehost

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite"

	"github.com/cape-functions/cape/core/account"
	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/test/platform"
)

// operator runs the platform and is everybody's enemy.
type operator struct {
	t      *testing.T
	dir    string
	p      *platform.Platform
	issuer string
	believed
}

// newOperator starts a platform of its own.
func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{t: t, dir: t.TempDir()}
	o.start()
	return o
}

func (o *operator) start() {
	o.t.Helper()
	o.p = platform.Start(o.t, o.dir)
	name, err := os.ReadFile(filepath.Join(o.dir, "identity", "issuer"))
	if err != nil {
		o.t.Fatal(err)
	}
	o.issuer = strings.TrimSpace(string(name))
	text, err := os.ReadFile(filepath.Join(o.dir, "config", "trust.json"))
	if err != nil {
		o.t.Fatal(err)
	}
	var file wire.TrustFile
	if err := json.Unmarshal(text, &file); err != nil {
		o.t.Fatal(err)
	}
	entry := file.Origins[o.p.URL]
	if entry == nil {
		o.t.Fatalf("the trust file does not name %s", o.p.URL)
	}
	if o.pcr0, err = nitro.ParsePCR(entry.PCRs["0"][0]); err != nil {
		o.t.Fatal(err)
	}
	o.root = entry.RootDER
}

// mint makes a token of any user: the identity provider is the operator's.
func (o *operator) mint(user string) string {
	o.t.Helper()
	return o.p.Mint(func(claims map[string]any) { claims["sub"], claims[platform.UsernameClaim] = user, user })
}

// database changes rows while nobody looks.
func (o *operator) database(changes ...string) {
	o.t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(o.dir, "cape.db")+"?_pragma=busy_timeout(10000)&_pragma=foreign_keys(0)")
	if err != nil {
		o.t.Fatal(err)
	}
	defer db.Close()
	for _, change := range changes {
		result, err := db.ExecContext(context.Background(), change)
		if err != nil {
			o.t.Fatalf("%s: %v", change, err)
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			o.t.Fatalf("%s changed nothing: %v", change, err)
		}
	}
}

// person is a user with an account key.
type person struct {
	name, token string
	key         *account.Key
}

func (o *operator) person(name string) person {
	o.t.Helper()
	key, err := account.New()
	if err != nil {
		o.t.Fatal(err)
	}
	return person{name, o.mint(name), key}
}

const echo = "def cape_handler(d):\n    print('log of the handler')\n    return d\n"

func zipped(t *testing.T, source string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.Create("app.py")
	if err == nil {
		_, err = f.Write([]byte(source))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// manifest describes a zip as p's function.
func (o *operator) manifest(p person, name string, zip []byte, change func(*wire.Manifest)) *wire.Manifest {
	acct, sum, salt := p.key.ID(), sha256.Sum256(zip), make([]byte, 16)
	rand.Read(salt)
	m := &wire.Manifest{V: 2, Owner: wire.Subject{Iss: o.issuer, Sub: p.name}, Acct: acct[:], Name: name, Access: wire.AccessPublic,
		Decrypt: wire.DecryptOwner, Seq: 1, Checksum: sum[:], Salt: salt}
	if change != nil {
		change(m)
	}
	return m
}

// deploy stores a function of p's, as its honest client would, and returns its id.
func (o *operator) deploy(p person, name, source string, change func(*wire.Manifest)) string {
	o.t.Helper()
	zip := zipped(o.t, source)
	manifest, sig, err := p.key.SignManifest(o.manifest(p, name, zip, change))
	if err != nil {
		o.t.Fatal(err)
	}
	c, err := connect(o.t, o.p.URL, "/v1/deploy", o.believed, opening(p.token, p.key))
	if err != nil {
		o.t.Fatal(err)
	}
	d, err := c.deploy(manifest, sig, zip)
	if err != nil {
		o.t.Fatal(err)
	}
	if d.ID != wire.FunctionID(manifest) {
		o.t.Fatalf("deployed as %s, the manifest's id is %s", d.ID, wire.FunctionID(manifest))
	}
	return d.ID
}
