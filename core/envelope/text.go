package envelope

import (
	"bytes"
	"encoding/base64"
	"fmt"
)

var (
	errNewline = fmt.Errorf("%w: its base64 has a line break inside", ErrFormat)
	errBase64  = fmt.Errorf("%w: its base64 is not valid", ErrFormat)
	errGroup   = fmt.Errorf("%w: its base64 ends within a group of four", ErrFormat)
	errPadding = fmt.Errorf("%w: its base64 goes on after the padding", ErrFormat)
)

// decodeText decodes standard base64 with padding and no stray bits. Go's
// decoder skips line breaks, so they are looked for first.
func decodeText(dst, src []byte) (int, error) {
	if bytes.IndexByte(src, '\n') >= 0 || bytes.IndexByte(src, '\r') >= 0 {
		return 0, errNewline
	}
	n, err := base64.StdEncoding.Strict().Decode(dst, src)
	if err != nil {
		return 0, errBase64
	}
	return n, nil
}

// trimNewline takes the one line break away that printing adds.
func trimNewline(text []byte) []byte {
	if rest, ok := bytes.CutSuffix(text, []byte("\n")); ok {
		return bytes.TrimSuffix(rest, []byte("\r"))
	}
	return text
}

// encodeForward writes the base64 of src, which lies at the end of dst, into
// dst. What is written never reaches what is still to be read: after k of m
// bytes they are (m-k)/3 apart.
func encodeForward(dst, src []byte) {
	const block = textBlock / 4 * 3
	var scratch [block]byte
	for len(src) > 0 {
		n := copy(scratch[:], src)
		src = src[n:]
		base64.StdEncoding.Encode(dst, scratch[:n])
		dst = dst[min(len(dst), base64.StdEncoding.EncodedLen(n)):]
	}
	clear(scratch[:])
}

// decodeBackward decodes text into its own beginning.
func decodeBackward(text []byte) ([]byte, error) {
	if len(text)%4 != 0 {
		return nil, errGroup
	}
	scratch := make([]byte, textBlock/4*3)
	done := 0
	for at := 0; at < len(text); at += textBlock {
		block := text[at:min(at+textBlock, len(text))]
		n, err := decodeText(scratch, block)
		if err != nil {
			return nil, err
		}
		if n < len(block)/4*3 && at+len(block) < len(text) {
			return nil, errPadding
		}
		done += copy(text[done:], scratch[:n])
	}
	return text[:done], nil
}
