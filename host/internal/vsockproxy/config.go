package vsockproxy

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxConfig  = 256 << 10
	maxEntries = 4096
)

// Listen is one vsock port and where its connections go.
type Listen struct {
	// Port is the vsock port to listen on.
	Port uint32
	// Endpoint is the destination.
	Endpoint Endpoint
}

// File is what a configuration file says. Its format is the subset of YAML in
// which AWS's vsock-proxy is configured:
//
//	allowlist:
//	- {address: kms.eu-central-1.amazonaws.com, port: 443}
//	endpoints:
//	- {local_port: 8000, address: kms.eu-central-1.amazonaws.com, port: 443}
//	- local_port: 8001
//	  address: 10.0.0.7
//	  port: 5432
//	  allow_private: true
//
// allowlist says what the command line may ask for; endpoints says what is
// served without one. Either may be left out.
type File struct {
	Allow     []Endpoint
	Endpoints []Listen
}

// ReadConfig reads a configuration file. Errors wrap ErrConfig.
func ReadConfig(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %w", ErrConfig, path, err)
	}
	file, err := ParseConfig(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return file, nil
}

// entry is one item of a list.
type entry struct {
	line   int // that it began on
	column int // in which its further lines stand, 0 for one in braces
	values map[string]string
}

// parser reads line by line. What it does not know is an error: a line that
// was skipped could have been the one that restricts something.
type parser struct {
	file    File
	section string
	seen    map[string]bool
	indent  int // of the items' dashes in this section, -1 before the first
	item    *entry
	items   int
}

// ParseConfig reads a configuration. Errors wrap ErrConfig.
func ParseConfig(text []byte) (*File, error) {
	if len(text) > maxConfig {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrConfig, maxConfig)
	}
	if !utf8.Valid(text) {
		return nil, fmt.Errorf("%w: not UTF-8", ErrConfig)
	}
	p := &parser{seen: map[string]bool{}, indent: -1}
	for i, line := range strings.Split(string(text), "\n") {
		if err := p.line(i+1, strings.TrimSuffix(line, "\r")); err != nil {
			return nil, fmt.Errorf("%w: line %d: %w", ErrConfig, i+1, err)
		}
	}
	if err := p.finish(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return &p.file, nil
}

func (p *parser) line(number int, line string) error {
	line, err := stripComment(line)
	if err != nil {
		return err
	}
	content := strings.TrimLeft(line, " ")
	indent := len(line) - len(content)
	if content == "" || number == 1 && line == "---" {
		return nil
	}
	if rest, ok := strings.CutPrefix(content, "- "); ok {
		return p.dash(number, indent, strings.TrimLeft(rest, " "), len(line)-len(strings.TrimLeft(rest, " ")))
	}
	if indent == 0 {
		return p.open(content)
	}
	if p.item == nil || indent != p.item.column {
		return fmt.Errorf("this does not belong to an item of a list")
	}
	return p.pair(p.item.values, content)
}

// open begins a section.
func (p *parser) open(content string) error {
	if err := p.finish(); err != nil {
		return err
	}
	name, rest, ok := strings.Cut(content, ":")
	rest = strings.TrimSpace(rest)
	if !ok || (rest != "" && rest != "[]") {
		return fmt.Errorf("expected \"allowlist:\" or \"endpoints:\"")
	}
	if name != "allowlist" && name != "endpoints" {
		return fmt.Errorf("unknown key %q; known are allowlist and endpoints", name)
	}
	if p.seen[name] {
		return fmt.Errorf("%s stands twice", name)
	}
	p.seen[name], p.section, p.indent = true, name, -1
	if rest == "[]" {
		p.section = ""
	}
	return nil
}

// dash begins an item: a whole one in braces, or the first pair of one that
// further lines go on with.
// Its first key stands in column at.
func (p *parser) dash(number, indent int, content string, at int) error {
	if err := p.finish(); err != nil {
		return err
	}
	if p.section == "" {
		return fmt.Errorf("an item stands outside of allowlist and endpoints")
	}
	if p.indent >= 0 && p.indent != indent {
		return fmt.Errorf("the items of a list must stand one below the other")
	}
	if p.items++; p.items > maxEntries {
		return fmt.Errorf("more than %d entries", maxEntries)
	}
	p.indent = indent
	p.item = &entry{line: number, values: map[string]string{}}
	if !strings.HasPrefix(content, "{") {
		p.item.column = at
		return p.pair(p.item.values, content)
	}
	inner, ok := strings.CutSuffix(content[1:], "}")
	if !ok {
		return fmt.Errorf("an item in braces must end on its line")
	}
	for part := range strings.SplitSeq(inner, ",") {
		if err := p.pair(p.item.values, strings.TrimSpace(part)); err != nil {
			return err
		}
	}
	return p.finish()
}

// pair reads "key: value".
func (p *parser) pair(values map[string]string, content string) error {
	key, value, ok := strings.Cut(content, ": ")
	if !ok {
		return fmt.Errorf("expected \"key: value\", found %q", content)
	}
	value = strings.TrimSpace(value)
	if n := len(value); n >= 2 && (value[0] == '"' || value[0] == '\'') && value[n-1] == value[0] {
		value = value[1 : n-1]
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("\"'{}[],&*!|>%@`\\#", r)
	}) {
		return fmt.Errorf("the value of %s is empty or not a plain word", key)
	}
	if _, twice := values[key]; twice {
		return fmt.Errorf("%q stands twice in one item", key)
	}
	values[key] = value
	return nil
}

// finish checks the item that was being read and adds it.
func (p *parser) finish() error {
	item := p.item
	p.item = nil
	if item == nil {
		return nil
	}
	var l Listen
	for key, value := range item.values {
		var err error
		switch key {
		case "address":
			l.Endpoint.Host = value
		case "port":
			l.Endpoint.Port, err = parsePort(value)
		case "allow_private":
			l.Endpoint.AllowPrivate = value == "true"
			if value != "true" && value != "false" {
				err = fmt.Errorf("allow_private must be true or false")
			}
		case "local_port":
			if p.section != "endpoints" {
				return fmt.Errorf("item of line %d: local_port belongs to endpoints, not to allowlist", item.line)
			}
			l.Port, err = ParseVsockPort(value)
		default:
			err = fmt.Errorf("unknown key %q", key)
		}
		if err != nil {
			return fmt.Errorf("item of line %d: %w", item.line, err)
		}
	}
	if _, err := endpointKey(l.Endpoint.Host, l.Endpoint.Port); err != nil {
		return fmt.Errorf("item of line %d needs address and port: %w", item.line, err)
	}
	if p.section == "allowlist" {
		p.file.Allow = append(p.file.Allow, l.Endpoint)
		return nil
	}
	if _, given := item.values["local_port"]; !given {
		return fmt.Errorf("item of line %d needs local_port", item.line)
	}
	for _, have := range p.file.Endpoints {
		if have.Port == l.Port {
			return fmt.Errorf("item of line %d: local_port %d stands twice", item.line, l.Port)
		}
	}
	p.file.Endpoints = append(p.file.Endpoints, l)
	return nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", s)
	}
	return uint16(n), nil
}

// ParsePort reads a TCP port. Errors wrap ErrConfig.
func ParsePort(s string) (uint16, error) {
	n, err := parsePort(s)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return n, nil
}

// ParseVsockPort reads a vsock port: 32 bits without 0 and without
// VMADDR_PORT_ANY (vsock(7)). Errors wrap ErrConfig.
func ParseVsockPort(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 0 || n == 1<<32-1 {
		return 0, fmt.Errorf("%w: %q is not a vsock port from 1 to 4294967294", ErrConfig, s)
	}
	return uint32(n), nil
}

// stripComment removes a comment and white space at the end, and refuses tabs,
// which YAML does not allow as indentation.
func stripComment(line string) (string, error) {
	if strings.ContainsRune(line, '\t') {
		return "", fmt.Errorf("there is a tab; use spaces")
	}
	for i := range line {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ') {
			line = line[:i]
			break
		}
	}
	return strings.TrimRight(line, " "), nil
}
