// Command bench measures the platform beside its peers, on one machine in one
// run: absolute times drift, ratios hold. It prints a table, and writes it as
// JSON and as a plot.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sort"
	"strings"
	"text/tabwriter"
	"time"
)

// row is one line of the table: ours, the peer's, and the ratio, with the
// target that stands in the design for it.
type row struct {
	Name   string  `json:"name"`
	Ours   float64 `json:"ours"`
	Peer   float64 `json:"peer"`
	Unit   string  `json:"unit"`
	Ratio  float64 `json:"ratio"`
	Target string  `json:"target"`
	Note   string  `json:"note,omitempty"`
}

type bench struct {
	ctx  context.Context
	bin  string
	venv string
	tmp  string
	size int64  // bytes of the large rows
	load string // folder with numpy and scikit-learn
	rows []row
}

// children are what rows run as processes of their own, to measure those.
var children = map[string]func(args []string) error{
	"encrypt-stream": func(args []string) error { return encryptStream(args[0], args[1]) },
	"echo-stream":    echoStream,
}

func first(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func main() {
	if child, ok := children[first(os.Args[1:])]; ok {
		if err := child(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	bin := flag.String("bin", "bin", "folder of the binaries")
	venv := flag.String("venv", "", "virtual environment with fastapi and uvicorn")
	out := flag.String("json", "", "file for the results")
	picture := flag.String("svg", "", "file for the plot")
	only := flag.String("only", "", "measure the rows whose group has this in its name")
	size := flag.Int64("size", 500_000_000, "bytes of the function in the deploy row; the encrypt row takes twice as much")
	load := flag.String("heavy", "", "folder with numpy and scikit-learn, as pip install --target leaves it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	tmp, err := os.MkdirTemp("", "cape-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	b := &bench{ctx: ctx, bin: *bin, venv: *venv, tmp: tmp, size: *size, load: *load}
	groups := []struct {
		name string
		run  func() error
	}{{"attestation", b.attestation}, {"warm", b.warm}, {"whole run", b.wholeRun}, {"jail", b.jail}, {"heavy import", b.heavy}, {"image", b.image}, {"machine", b.machine}, {"encrypt", b.encrypt}, {"deploy", b.deploy}, {"stream", b.stream}, {"idle", b.idle}}
	for _, g := range groups {
		if !strings.Contains(g.name, *only) {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring:", g.name)
		if err := g.run(); err != nil {
			return fmt.Errorf("%s: %w", g.name, err)
		}
	}
	if *only == "" {
		b.rows = append(b.rows, unmeasured()...)
	}
	b.print()
	return b.write(*out, *picture)
}

// unmeasured are targets for which there is no measurement here yet. They stand
// in the table so that none is forgotten; whoever adds one takes it out.
func unmeasured() []row {
	const note = "not measured yet"
	return []row{
		{Name: "whole run, numpy and scikit-learn, no spare", Target: "<= 1.1", Note: note},
		{Name: "pycape, cape.js: warm invoke against the Go SDK", Target: "<= 3", Note: note},
	}
}

// write writes the results to files; an empty name writes none.
func (b *bench) write(out, picture string) error {
	if picture != "" {
		if err := os.WriteFile(picture, plot(b.rows), 0o644); err != nil {
			return err
		}
	}
	if out == "" {
		return nil
	}
	text, err := json.MarshalIndent(b.rows, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(out, append(text, '\n'), 0o644)
}

func (b *bench) add(name, unit, target, note string, ours, peer float64) {
	r := row{Name: name, Ours: ours, Peer: peer, Unit: unit, Target: target, Note: note}
	if peer != 0 {
		r.Ratio = ours / peer
	}
	b.rows = append(b.rows, r)
}

func (b *bench) print() {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "work\tours\tpeer\tunit\tratio\ttarget\tnote")
	for _, r := range b.rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, figure(r.Ours, "%.4g"), figure(r.Peer, "%.4g"), r.Unit, figure(r.Ratio, "%.2f"), r.Target, r.Note)
	}
	w.Flush()
}

// figure is a dash for what was not measured.
func figure(v float64, form string) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(form, v)
}

// median runs f n times after a warm-up and returns the median duration.
func median(n int, f func() error) (time.Duration, error) {
	if err := f(); err != nil {
		return 0, err
	}
	times := make([]time.Duration, 0, n)
	for range n {
		start := time.Now()
		if err := f(); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
	return times[n/2], nil
}

// paired measures two things in turn, so that a machine that changes its speed
// changes it for both.
func paired(n int, ours, peer func() error) (a, b time.Duration, err error) {
	var as, bs []time.Duration
	for range 3 {
		x, err1 := median(n/3+1, ours)
		y, err2 := median(n/3+1, peer)
		if err := errors.Join(err1, err2); err != nil {
			return 0, 0, err
		}
		as, bs = append(as, x), append(bs, y)
	}
	sort.Slice(as, func(i, j int) bool { return as[i] < as[j] })
	sort.Slice(bs, func(i, j int) bool { return bs[i] < bs[j] })
	return as[1], bs[1], nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// have says whether a peer is installed.
func have(name string) bool {
	_, err := exec.LookPath(name)
	return err == nil
}
