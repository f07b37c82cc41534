package worker

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cape-functions/cape/core/wire"
	"github.com/cape-functions/cape/host/internal/devcloud"
	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

// outlet is a TCP endpoint that enclaves reach: under which name, and where it is.
type outlet struct {
	name string // "host:port" as the enclave dials it
	to   vsockproxy.Endpoint
}

// openProxy opens the ways out: KMS and STS of one Region, and the key sets of the
// issuers in trust. Nothing else can be reached.
func (w *worker) openProxy(partition, region string, trust wire.Trust) error {
	w.outlets = nil
	if w.cloud != nil {
		name, to := w.cloud.Route()
		w.outlets = append(w.outlets, outlet{name, to})
	} else {
		suffix := "amazonaws.com"
		if partition == "aws-cn" {
			suffix = "amazonaws.com.cn"
		}
		for _, service := range []string{"kms", "sts"} {
			w.addOutlet(service+"."+region+"."+suffix, 443)
		}
	}
	for _, i := range trust.Issuers {
		if i.JWKS == nil {
			continue
		}
		u, err := url.Parse(*i.JWKS)
		if err != nil || u.Hostname() == "" {
			return fmt.Errorf("the issuer's key set has no usable URL: %q", *i.JWKS)
		}
		port := uint64(443)
		if u.Port() != "" {
			if port, err = strconv.ParseUint(u.Port(), 10, 16); err != nil {
				return fmt.Errorf("the issuer's key set has no usable URL: %q", *i.JWKS)
			}
		}
		w.addOutlet(u.Hostname(), uint16(port))
	}
	var allow []vsockproxy.Endpoint
	for _, o := range w.outlets {
		allow = append(allow, o.to)
	}
	proxy, err := vsockproxy.New(vsockproxy.Config{Allow: allow, Log: w.log})
	if err != nil {
		return err
	}
	w.onClose(proxy.Close)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.proxy = proxy
	return nil
}

func (w *worker) addOutlet(host string, port uint16) {
	o := outlet{name: net.JoinHostPort(host, strconv.Itoa(int(port))), to: vsockproxy.Endpoint{
		Host: host, Port: port, AllowPrivate: slices.ContainsFunc(w.cfg.Private, func(p string) bool { return strings.EqualFold(p, host) }),
	}}
	if !slices.ContainsFunc(w.outlets, func(have outlet) bool { return have.name == o.name }) {
		w.outlets = append(w.outlets, o)
	}
}

// routed adds where an enclave finds what it reaches.
func (w *worker) routed(b wire.Boot) (wire.Boot, error) {
	b.Routes = map[string]uint32{}
	for i, o := range w.outlets {
		b.Routes[o.name] = wire.PortProxyBase + uint32(i)
	}
	if w.cloud == nil {
		return b, nil
	}
	dev, err := devSettings(w.cloud, w.cfg.Development.CA)
	b.Dev = dev
	return b, err
}

func devSettings(cloud *devcloud.Cloud, ca string) (*wire.DevSettings, error) {
	s := cloud.Settings()
	if ca == "" {
		return s, nil
	}
	more, err := os.ReadFile(ca)
	if err != nil {
		return nil, fmt.Errorf("reading --development-ca: %w", err)
	}
	s.CA = bytes.Join([][]byte{s.CA, more}, []byte("\n"))
	return s, nil
}

// partitionOf and regionOf read an ARN, "arn:PARTITION:SERVICE:REGION:…".
func partitionOf(arn string) string { return arnField(arn, 1) }

func regionOf(arn string) string { return arnField(arn, 3) }

func arnField(arn string, i int) string {
	parts := strings.Split(arn, ":")
	if len(parts) <= i {
		return ""
	}
	return parts[i]
}
