package localkms

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

func TestRestartKeepsEverything(t *testing.T) {
	dir := t.TempDir()
	in := func(c *Config) { c.Dir = dir }
	w := newWorld(t, in)
	ctx := t.Context()
	key := w.newKey("")
	c := w.kms(adminRole)
	if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: aws.String("alias/kept"), TargetKeyId: &key}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CreateGrant(ctx, &kms.CreateGrantInput{KeyId: &key, GranteePrincipal: aws.String(testRole), Operations: []types.GrantOperation{"Decrypt"}}); err != nil {
		t.Fatal(err)
	}
	enc, err := c.Encrypt(ctx, &kms.EncryptInput{KeyId: &key, Plaintext: []byte("kept"), EncryptionContext: dataContext})
	if err != nil {
		t.Fatal(err)
	}
	material := bytes.Clone(w.server.keys[key[strings.LastIndex(key, "/")+1:]].Material)
	before := w.server.CertificatePEM()
	creds := w.server.Credentials(adminRole)
	if err := w.server.Close(); err != nil {
		t.Fatal(err)
	}

	w = newWorld(t, in)
	if !bytes.Equal(before, w.server.CertificatePEM()) {
		t.Error("the CA was made again")
	}
	// Credentials of before are good as well.
	c = w.kms("", func(o *kms.Options) { o.Credentials = w.provider(creds) })
	out, err := c.Decrypt(ctx, &kms.DecryptInput{KeyId: aws.String("alias/kept"), CiphertextBlob: enc.CiphertextBlob, EncryptionContext: dataContext})
	if err != nil || string(out.Plaintext) != "kept" {
		t.Errorf("decrypt: %v", err)
	}
	grants, err := c.ListGrants(ctx, &kms.ListGrantsInput{KeyId: &key})
	if err != nil || len(grants.Grants) != 1 {
		t.Errorf("grants: %v", err)
	}
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, material) || bytes.Contains(b, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a key in plain", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Pairs: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, tc := range []struct {
		name string
		c    Config
		want error
	}{
		{"no directory", Config{}, ErrConfig},
		{"region", Config{Dir: t.TempDir(), Region: "nowhere"}, ErrConfig},
		{"account", Config{Dir: t.TempDir(), AccountID: "12"}, ErrConfig},
		{"name", Config{Dir: t.TempDir(), Names: []string{"a b"}}, ErrConfig},
		{"pairs", Config{Dir: t.TempDir(), Pairs: maxPairs + 1}, ErrConfig},
		{"in use", Config{Dir: dir}, ErrInUse},
		{"directory is a file", Config{Dir: filepath.Join(dir, "master.key")}, ErrStore},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, err := Open(tc.c); !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// A key that cannot be read is an error that loses nothing.
func TestDamagedKeyStopsOpen(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, func(c *Config) { c.Dir = dir })
	w.newKey("")
	if err := w.server.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "records", "key-*"))
	if err != nil || len(names) != 1 {
		t.Fatalf("%v, %v", names, err)
	}
	if err := os.Truncate(names[0], 100); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Dir: dir, Pairs: -1}); !errors.Is(err, ErrStore) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(names[0]); err != nil {
		t.Error(err)
	}
}

func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	key := w.newKey("")
	ctx := t.Context()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := w.kms(adminRole)
			for j := range 4 {
				name := fmt.Sprintf("alias/a-%d-%d", i, j)
				if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &name, TargetKeyId: &key}); err != nil {
					t.Error(err)
				}
				if _, err := c.TagResource(ctx, &kms.TagResourceInput{KeyId: &key, Tags: []types.Tag{{TagKey: aws.String(fmt.Sprint("t", i, "-", j)), TagValue: aws.String("x")}}}); err != nil {
					t.Error(err)
				}
				out, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &name, KeySpec: types.DataKeySpecAes256})
				if err != nil {
					t.Error(err)
					continue
				}
				back, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: out.CiphertextBlob})
				if err != nil || !bytes.Equal(back.Plaintext, out.Plaintext) {
					t.Errorf("decrypt: %v", err)
				}
			}
		})
	}
	wg.Wait()
	list, err := w.kms(adminRole).ListAliases(ctx, &kms.ListAliasesInput{})
	if err != nil || len(list.Aliases) != 32 {
		t.Errorf("aliases: %v", err)
	}
	tags, err := w.kms(adminRole).ListResourceTags(ctx, &kms.ListResourceTagsInput{KeyId: &key, Limit: aws.Int32(50)})
	if err != nil || len(tags.Tags) != 32 {
		t.Errorf("tags: %v", err)
	}
}

func TestTLSNames(t *testing.T) {
	w := newWorld(t)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.server.CertificatePEM())
	addr := strings.TrimPrefix(w.url, "https://")
	for name, good := range map[string]bool{HostName: true, "localhost": true, "127.0.0.1": true, "::1": true, "kms.eu-central-1.amazonaws.com": false} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: pool, ServerName: name})
		if good != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			_ = conn.Close()
		}
	}
	if conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: "localhost"}); err == nil {
		_ = conn.Close()
		t.Error("the system's roots accept it")
	}
}

func TestCertificateRenews(t *testing.T) {
	w := newWorld(t)
	get := func() *tls.Certificate {
		t.Helper()
		c, err := w.server.TLSConfig().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	if get() != first {
		t.Error("made again without need")
	}
	w.shift.Store(int64(leafLife - leafRenew + time.Hour))
	if second := get(); second == first || !second.Leaf.NotAfter.After(w.now().Add(leafRenew)) {
		t.Error("not renewed in time")
	}
}

func TestPool(t *testing.T) {
	before := runtime.NumGoroutine()
	p := newPool(1)
	deadline := time.After(30 * time.Second)
	for len(p.ready) == 0 {
		select {
		case <-deadline:
			t.Fatal("no pair was made ahead")
		case <-time.After(10 * time.Millisecond):
		}
	}
	a, err := p.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := p.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a.private, b.private) {
		t.Error("two callers got one pair")
	}
	p.close()
	<-p.done
	empty := newPool(-1)
	defer empty.close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	empty.slots <- struct{}{}
	empty.slots <- struct{}{}
	if _, err := empty.get(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

func TestCloseTwiceAndServeAfter(t *testing.T) {
	s, err := Open(Config{Dir: t.TempDir(), Pairs: -1})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Errorf("serve after close: %v", err)
	}
	_ = l.Close()
}

// A request that does not end delays Close a little, and keeps its directory.
func TestCloseWithRequestAtWork(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Config{Dir: dir, Pairs: -1})
	if err != nil {
		t.Fatal(err)
	}
	s.inFlight <- struct{}{}
	if err := s.Close(); !errors.Is(err, errBusy) {
		t.Errorf("close: %v", err)
	}
	if _, err := Open(Config{Dir: dir, Pairs: -1}); !errors.Is(err, ErrInUse) {
		t.Errorf("open: %v", err)
	}
	if err := s.store.Close(); err != nil {
		t.Error(err)
	}
}

func TestPartitions(t *testing.T) {
	for region, want := range map[string]string{"us-east-1": "arn:aws:", "cn-north-1": "arn:aws-cn:", "us-gov-west-1": "arn:aws-us-gov:"} {
		s := &Server{region: region, account: testAccount}
		if !strings.HasPrefix(s.keyARN("x"), want) {
			t.Errorf("%s: %s", region, s.keyARN("x"))
		}
	}
}
