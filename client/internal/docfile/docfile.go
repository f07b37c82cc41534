// Package docfile finds an attestation document in a file, in whatever form people have
// one: raw, as base64 or hexadecimal text, or inside the JSON of a server or of cape.
package docfile

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// ErrNone: the file holds no document in a form that is known.
var ErrNone = errors.New("file holds no attestation document: neither raw, nor base64, nor in a known JSON form")

// MaxFile bounds the file in bytes: results with their document can be large.
const MaxFile = 64 << 20

// maxDepth bounds how deep JSON is searched.
const maxDepth = 6

// names are the keys under which documents are found, in the order of search.
var names = [...]string{"attestation_document", "raw_attestation_doc", "raw_attestation_document", "attestation_doc", "document", "message"}

// Find returns the document in data. It is not verified and may be malformed.
func Find(data []byte) ([]byte, error) {
	trimmed := bytes.TrimSpace(data)
	switch {
	case len(trimmed) == 0 || len(data) > MaxFile:
		return nil, ErrNone
	case looksRaw(data):
		return data, nil
	case trimmed[0] == '{' || trimmed[0] == '"':
		var v any
		if err := json.Unmarshal(trimmed, &v); err != nil {
			return nil, ErrNone
		}
		if doc := inJSON(v, maxDepth); doc != nil {
			return doc, nil
		}
		return nil, ErrNone
	}
	if doc := inText(string(trimmed)); doc != nil {
		return doc, nil
	}
	return nil, ErrNone
}

// looksRaw tells COSE_Sign1 by its first bytes: an array of four, of definite or
// indefinite length, tagged or not.
func looksRaw(b []byte) bool {
	if len(b) > 0 && b[0] == 0xd2 {
		b = b[1:]
	}
	return len(b) > 2 && (b[0] == 0x84 || b[0] == 0x9f) && (b[1]&0xe0 == 0x40)
}

func inText(s string) []byte {
	s = strings.Join(strings.Fields(s), "")
	if len(s) > 4*nitro.MaxDocument {
		return nil
	}
	unpadded := strings.TrimRight(s, "=")
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.RawStdEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if b, err := decode(unpadded); err == nil && looksRaw(b) {
			return b
		}
	}
	return nil
}

func inJSON(v any, depth int) []byte {
	switch v := v.(type) {
	case string:
		return inText(v)
	case map[string]any:
		if depth == 0 {
			return nil
		}
		for _, name := range names {
			if doc := inJSON(v[name], depth-1); doc != nil {
				return doc
			}
		}
	}
	return nil
}
