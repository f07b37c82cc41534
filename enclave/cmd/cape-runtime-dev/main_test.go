package main

import (
	"bytes"
	"encoding/pem"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/enclave/internal/nsm"
	nsmkit "github.com/cape-functions/cape/enclave/internal/nsm/testkit"
)

func TestFlags(t *testing.T) {
	p, layers, err := parseFlags([]string{"--links", "/run/x", "--python", "/usr/bin/python3", "--scratch", "/tmp/x"})
	if err != nil || layers || !p.Degraded || p.Python != "/usr/bin/python3" || p.Scratch != "/tmp/x" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range [][]string{{}, {"--scratch", "relative"}, {"--scratch", "/tmp/x", "more"}, {"--unknown"}} {
		if _, _, err := parseFlags(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestEndpoints(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	e, err := endpoints(&wire.DevSettings{KMSEndpoint: "https://kms", STSEndpoint: "https://sts", CA: ca})
	if err != nil || e.KMS != "https://kms" || e.STS != "https://sts" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := endpoints(&wire.DevSettings{KMSEndpoint: "https://kms"}); err == nil {
		t.Error("settings without a root were taken")
	}
	if e, err := endpoints(nil); err != nil || e.KMS != "" {
		t.Errorf("AWS's own: %+v, %v", e, err)
	}
}

func TestBirthRootIsTheModules(t *testing.T) {
	m := nsmkit.New("dev", time.Now)
	roots, err := ownRoot(nsm.New(m))
	if err != nil || len(roots) != 1 || !bytes.Equal(roots[0], m.Authority.Root) {
		t.Errorf("%d roots, %v", len(roots), err)
	}
}
