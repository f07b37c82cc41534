package main

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		value  float64
		target string
		ok     bool
		known  bool
	}{
		{0.4, "<= 0.5", true, true}, {0.6, "<= 0.5", false, true}, {2, ">= 2", true, true}, {1.9, ">= 2", false, true},
		{50, "<= 64 MiB", true, true}, {1, "", false, false}, {1, "soon", false, false}, {1, "~ 3", false, false},
	} {
		if ok, known := within(c.value, c.target); ok != c.ok || known != c.known {
			t.Errorf("%v against %q: %v, %v", c.value, c.target, ok, known)
		}
	}
}

// TestPlot: it is XML, names every row that has a target, and marks those that miss it.
func TestPlot(t *testing.T) {
	rows := []row{
		{Name: "good & fast", Ours: 1, Peer: 10, Ratio: 0.1, Target: "<= 0.5"},
		{Name: "bad", Ours: 10, Peer: 10, Ratio: 1, Target: "<= 0.5"},
		{Name: "memory", Ours: 50, Unit: "MiB", Target: "<= 64 MiB"},
		{Name: "no target", Ours: 1},
	}
	svg := string(plot(rows))
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(svg, "#c0504d") != 1 || strings.Count(svg, "#4f8f4f") != 2 || !strings.Contains(svg, "good &amp; fast") || strings.Contains(svg, "no target") {
		t.Error(svg)
	}
	if position(0.1) >= position(1) || position(1) >= position(10) || position(0) != position(0.01) {
		t.Error("better is not to the left")
	}
}
