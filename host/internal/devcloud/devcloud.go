// Package devcloud plays AWS for development: the hypervisor's signer, a KMS, and
// the credentials of the enclave's role. Everything it keeps lies in one
// directory, and whoever reads that can open and forge everything: it protects
// against everybody but the operator of the machine.
package devcloud

import (
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devnsm"
	"github.com/cape-functions/cape/host/internal/localkms"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// The account that is played, the role whose credentials enclaves get, and the
// administrator of keys.
const (
	accountID = "000000000000"
	region    = "us-east-1"
	RoleARN   = "arn:aws:iam::" + accountID + ":role/cape-enclave"
	AdminARN  = "arn:aws:iam::" + accountID + ":role/cape-admin"
)

// Config says where the cloud lies.
type Config struct {
	// Dir has the folders authority and kms; they are made when missing. One
	// process uses it at a time.
	Dir string
	// Pairs is how many RSA pairs the KMS keeps ahead of need (localkms.Config).
	Pairs int
	Log   *slog.Logger
}

// Cloud is running until Close. It is safe for concurrent use.
type Cloud struct {
	authority *devnsm.Authority
	kms       *localkms.Server
	port      uint16
	served    chan error
}

// Open starts a cloud; its KMS listens on a loopback port of its own.
func Open(cfg Config) (*Cloud, error) {
	authority, err := devnsm.OpenAuthority(filepath.Join(cfg.Dir, "authority"), time.Now)
	if err != nil {
		return nil, err
	}
	kms, err := localkms.Open(localkms.Config{
		Dir: filepath.Join(cfg.Dir, "kms"), Region: region, AccountID: accountID, Pairs: cfg.Pairs, Log: cfg.Log.With("part", "kms"),
		AttestationRoots: func() [][]byte { return [][]byte{authority.RootDER()} },
	})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("starting the local KMS: %w", err), kms.Close())
	}
	c := &Cloud{authority: authority, kms: kms, port: uint16(l.Addr().(*net.TCPAddr).Port), served: make(chan error, 1)}
	go func() { c.served <- kms.Serve(l) }()
	return c, nil
}

// Close ends the KMS.
func (c *Cloud) Close() error { return errors.Join(c.kms.Close(), <-c.served) }

// Authority plays the hypervisor.
func (c *Cloud) Authority() *devnsm.Authority { return c.authority }

// Publisher is the PCR8 of images that this cloud's certificate signed.
func (c *Cloud) Publisher() nitro.PCR {
	cert := sha512.Sum384(c.authority.SigningCertificate().Raw)
	return nitro.Extend(nitro.PCR{}, cert[:])
}

// Credentials are those of RoleARN.
func (c *Cloud) Credentials(context.Context) (wire.Credentials, error) {
	return c.kms.Credentials(RoleARN), nil
}

// Settings tell a development runtime where its KMS is.
func (c *Cloud) Settings() *wire.DevSettings {
	endpoint := "https://" + localkms.HostName
	return &wire.DevSettings{KMSEndpoint: endpoint, STSEndpoint: endpoint, CA: c.kms.CertificatePEM()}
}

// Route is the name under which enclaves reach the KMS, "host:port", and where
// it really is.
func (c *Cloud) Route() (string, vsockproxy.Endpoint) {
	return net.JoinHostPort(localkms.HostName, "443"), vsockproxy.Endpoint{Host: "127.0.0.1", Port: c.port, AllowPrivate: true}
}
