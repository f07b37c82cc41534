package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/cape-functions/cape/host/internal/vsockproxy"
)

const (
	defaultConfig  = "/etc/nitro_enclaves/vsock-proxy.yaml"
	defaultWorkers = 4
	maxWorkers     = 65536
)

// options are the command line.
type options struct {
	config     string
	workers    int
	ipv4, ipv6 bool
	cid        uint32
	links      string
	metrics    string
	idle       time.Duration
}

// run does everything but reading the environment and exiting.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o := options{}
	cmd := &cobra.Command{
		Use:   "vsock-proxy [flags] [LOCAL_PORT REMOTE_ADDR REMOTE_PORT]",
		Short: "Forwards vsock connections of an enclave to allow-listed TCP endpoints.",
		Long: `Forwards vsock connections of an enclave to allow-listed TCP endpoints.

With LOCAL_PORT REMOTE_ADDR REMOTE_PORT it serves one endpoint, which must stand
in the allowlist of the configuration file. Without them it serves every entry
of the file's endpoints:

  allowlist:
  - {address: kms.eu-central-1.amazonaws.com, port: 443}
  endpoints:
  - {local_port: 8000, address: kms.eu-central-1.amazonaws.com, port: 443}
  - {local_port: 8001, address: sts.eu-central-1.amazonaws.com, port: 443}

Without a list nothing is forwarded. Names are resolved for every connection;
private, loopback and link-local addresses are refused unless the entry says
allow_private: true (a VPC endpoint of AWS has a private address).`,
		Example:       "  vsock-proxy 8000 kms.eu-central-1.amazonaws.com 443 --config /etc/nitro_enclaves/vsock-proxy.yaml\n  vsock-proxy --config endpoints.yaml",
		Version:       revision,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 3 {
				return errors.New("give LOCAL_PORT REMOTE_ADDR REMOTE_PORT, or none of them and --config; see vsock-proxy --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return serve(cmd.Context(), o, args, stderr)
		},
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	f := cmd.Flags()
	f.StringVar(&o.config, "config", defaultConfig, "YAML file of what may be forwarded")
	f.IntVarP(&o.workers, "num_workers", "w", defaultWorkers, "connections at once, at most")
	f.BoolVarP(&o.ipv4, "ipv4", "4", false, "use IPv4 addresses only")
	f.BoolVarP(&o.ipv6, "ipv6", "6", false, "use IPv6 addresses only")
	f.Uint32Var(&o.cid, "cid", 0, "accept connections of this enclave only (0: of any)")
	f.StringVar(&o.links, "links", "", "listen on unix sockets DIR/host/PORT in place of vsock")
	f.StringVar(&o.metrics, "metrics", "", "serve Prometheus metrics over HTTP on this address, such as 127.0.0.1:9469")
	f.DurationVar(&o.idle, "idle", vsockproxy.DefaultIdle, "close connections on which nothing moved for so long")
	cmd.MarkFlagsMutuallyExclusive("ipv4", "ipv6")
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	return cmd.ExecuteContext(ctx)
}

// plan turns options and file into what is served.
func (o options) plan(args []string) (vsockproxy.Config, []vsockproxy.Listen, error) {
	c := vsockproxy.Config{MaxConns: o.workers, Idle: o.idle}
	if o.workers < 1 || o.workers > maxWorkers || o.idle <= 0 {
		return c, nil, fmt.Errorf("--num_workers must be 1 to %d, and --idle more than 0", maxWorkers)
	}
	switch {
	case o.ipv4:
		c.Family = vsockproxy.IPv4Only
	case o.ipv6:
		c.Family = vsockproxy.IPv6Only
	}
	file, err := vsockproxy.ReadConfig(o.config)
	if err != nil {
		return c, nil, fmt.Errorf("%w; name the file of what may be forwarded with --config", err)
	}
	if len(args) == 0 {
		for _, l := range file.Endpoints {
			c.Allow = append(c.Allow, l.Endpoint)
		}
		if len(file.Endpoints) == 0 {
			return c, nil, fmt.Errorf("%w: %s lists no endpoints; add some, or give LOCAL_PORT REMOTE_ADDR REMOTE_PORT", vsockproxy.ErrConfig, o.config)
		}
		return c, file.Endpoints, nil
	}
	c.Allow = file.Allow
	var l vsockproxy.Listen
	if l.Port, err = vsockproxy.ParseVsockPort(args[0]); err != nil {
		return c, nil, err
	}
	l.Endpoint.Host = args[1]
	l.Endpoint.Port, err = vsockproxy.ParsePort(args[2])
	return c, []vsockproxy.Listen{l}, err
}

// serve listens on every port first and forwards until ctx is done.
func serve(ctx context.Context, o options, args []string, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, nil))
	c, listens, err := o.plan(args)
	if err != nil {
		return err
	}
	c.Log = log
	p, err := vsockproxy.New(c)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, l := range listens {
		if e := endpointOf(l); !p.Allowed(e) {
			return fmt.Errorf("%w: %s is not in the allowlist of %s", vsockproxy.ErrDenied, e, o.config)
		}
	}
	open := o.network()
	failed := make(chan error, len(listens)+1)
	for _, l := range listens {
		listener, err := open(l.Port)
		if err != nil {
			return err
		}
		defer listener.Close()
		go func() { failed <- p.Serve(listener, endpointOf(l)) }()
		log.Info("listening", "vsock_port", l.Port, "endpoint", endpointOf(l))
	}
	if o.metrics != "" {
		stop, err := serveMetrics(o.metrics, p, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		log.Info("stopping")
		return nil
	}
}

func endpointOf(l vsockproxy.Listen) string {
	return net.JoinHostPort(l.Endpoint.Host, fmt.Sprint(l.Endpoint.Port))
}

// serveMetrics answers GET /metrics.
func serveMetrics(addr string, p *vsockproxy.Proxy, log *slog.Logger) (func(), error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serving metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_ = p.WriteMetrics(w) // who asked has gone
	})
	s := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving metrics", "reason", err.Error())
		}
	}()
	log.Info("serving metrics", "address", l.Addr().String())
	return func() {
		_ = s.Close()
		<-done
	}, nil
}
