package main

import "testing"

func TestGoLines(t *testing.T) {
	for text, want := range map[string]int{
		"":                                       0,
		"// a\n\npackage p // b\n":               1,
		"package p\n/* c\nd */\nvar x = 1\n":     2,
		"package p\nvar s = `one\ntwo\nthree`\n": 4,
		"package p\nvar s = \"// no comment\"\n": 2,
		"package p\nfunc f() {\n\n\treturn\n}\n": 4,
	} {
		if got := goLines([]byte(text)); got != want {
			t.Errorf("%q: %d lines, not %d", text, got, want)
		}
	}
}

func TestPythonLines(t *testing.T) {
	for text, want := range map[string]int{
		"":                               0,
		"# a\n\nx = 1  # b\n":            1,
		"\"\"\"One line.\"\"\"\nx = 1\n": 1,
		"def f():\n    '''Two\n    lines.'''\n    return 1\n": 2,
		"x = \"\"\"data\nmore\"\"\"\n":                        2,
	} {
		if got := pythonLines([]byte(text)); got != want {
			t.Errorf("%q: %d lines, not %d", text, got, want)
		}
	}
}

// TestCountLines: tests and testkits do not count, everything else does.
func TestCountLines(t *testing.T) {
	c, err := countLines("../../enclave", 4)
	if err != nil {
		t.Fatal(err)
	}
	for name := range c {
		if name == "../../enclave/internal/keyring/testkit" {
			t.Errorf("%s is counted", name)
		}
	}
	if c.total() < 5000 || c["../../enclave/python"] < 100 {
		t.Errorf("%d lines, %d of Python: something is not counted", c.total(), c["../../enclave/python"])
	}
}
