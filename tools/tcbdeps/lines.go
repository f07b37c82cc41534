package main

import (
	"bytes"
	"fmt"
	"go/scanner"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// count is lines of code by folder: neither blank nor only comment; no tests, no testkits.
type count map[string]int

// countLines counts the Go and Python below dir. Depth says how many parts of a
// path make a folder of the table.
func countLines(dir string, depth int) (count, error) {
	c := count{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{"testkit", "testdata", "tests", "__pycache__"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		code := codeLines(path)
		if code == nil {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		parts := strings.Split(filepath.ToSlash(path), "/")
		c[strings.Join(parts[:min(depth, len(parts)-1)], "/")] += code(text)
		return nil
	})
	return c, err
}

// codeLines returns how to count a file of this name, nil if it does not count.
func codeLines(path string) func([]byte) int {
	name := filepath.Base(path)
	switch {
	case strings.HasSuffix(name, "_test.go"), strings.HasPrefix(name, "test_"):
		return nil
	case strings.HasSuffix(name, ".go"):
		return goLines
	case strings.HasSuffix(name, ".py"):
		return pythonLines
	}
	return nil
}

// goLines counts lines on which a token begins or goes on.
func goLines(text []byte) int {
	files := token.NewFileSet()
	file := files.AddFile("", files.Base(), len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, 0) // comments are skipped
	lines := map[int]bool{}
	for {
		pos, tok, literal := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && literal == "\n" { // put in by the scanner
			continue
		}
		first := file.Line(pos)
		for i := range 1 + strings.Count(literal, "\n") {
			lines[first+i] = true
		}
	}
}

// pythonLines counts lines that are neither blank, nor a comment, nor part of a
// string that stands alone, which is documentation.
func pythonLines(text []byte) int {
	n, closing := 0, ""
	for line := range bytes.Lines(text) {
		s := strings.TrimSpace(string(line))
		switch {
		case closing != "":
			if strings.Contains(s, closing) {
				closing = ""
			}
		case s == "" || s[0] == '#':
		case strings.HasPrefix(s, `"""`), strings.HasPrefix(s, "'''"):
			if !strings.Contains(s[3:], s[:3]) {
				closing = s[:3]
			}
		default:
			n++
		}
	}
	return n
}

// standIns are what no production image holds: it is shown, and not part of the sum.
const standIns = "enclave/cmd/cape-runtime-dev"

func (c count) total() int {
	sum := 0
	for name, n := range c {
		if !strings.HasSuffix(name, standIns) {
			sum += n
		}
	}
	return sum
}

func (c count) print(w io.Writer) error {
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, name := range names {
		fmt.Fprintf(t, "%d\t  %s\n", c[name], name)
	}
	fmt.Fprintf(t, "%d\t  together, without the development image's own\n", c.total())
	return t.Flush()
}
