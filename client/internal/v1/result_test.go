package v1

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/internal/link"
	"github.com/cape-functions/cape/core/wire"
)

func TestReadResult(t *testing.T) {
	want := wire.ResultV1{Type: wire.TypeResult, Message: bytes.Repeat([]byte{0xfb, 0xff, 1}, 100_000), Checksums: wire.ChecksumsV1{Input: []byte("i"), Function: []byte("f"), Output: []byte("o")}, SignedChecksums: []byte("s")}
	frame, err := wire.EncodeV1(want)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString(want.Message)
	other := `{ "message" : { "extra" : [ {"message":"deeper \" }"} ] , "checksums":{"input":"aQ==","function":"Zg==","output":"bw=="}, "message" : "` +
		strings.ReplaceAll(b64, "/", `\/`) + `", "type":"function_result","signed_checksums":"cw==" } }`
	for name, text := range map[string]string{"as Go writes it": string(frame), "with space, order and escapes": other} {
		var got wire.ResultV1
		if err := readResult(iotest.HalfReader(strings.NewReader(text)), int64(len(want.Message)), &got); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !cmp.Equal(want, got) {
			t.Errorf("%s: another result", name)
		}
	}
	for _, empty := range []string{`{"message":{"message":""}}`, `{"message":{"message":null}}`, `{"message":{"type":"function_result"}}`} {
		var got wire.ResultV1
		if err := readResult(strings.NewReader(empty), 0, &got); err != nil || len(got.Message) > 0 {
			t.Errorf("%s: %d bytes, %v", empty, len(got.Message), err)
		}
	}
}

func TestReadResultRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		frame string
		want  error
	}{
		"empty":               {``, link.ErrProtocol},
		"two outputs":         {`{"message":{"message":"YQ==","message":"Yg=="}}`, link.ErrProtocol},
		"second in disguise":  {`{"message":{"message":"YQ==","mess\u0061ge":"Yg=="}}`, link.ErrProtocol},
		"second by case":      {`{"message":{"message":"YQ==","Message":"Yg=="}}`, link.ErrProtocol},
		"output in disguise":  {`{"message":{"mess\u0061ge":"Yg=="}}`, link.ErrProtocol},
		"output of the outer": {`{"message":"YQ=="}`, link.ErrProtocol},
		"output in an array":  {`{"message":[{"message":"YQ=="}]}`, link.ErrProtocol},
		"not base64":          {`{"message":{"message":"!!!!"}}`, link.ErrProtocol},
		"base64 cut":          {`{"message":{"message":"YWJ"}}`, link.ErrProtocol},
		"behind the padding":  {`{"message":{"message":"YQ==YQ=="}}`, link.ErrProtocol},
		"line break":          {"{\"message\":{\"message\":\"YQ==\n\"}}", link.ErrProtocol},
		"other escape":        {`{"message":{"message":"YQ\u003d="}}`, link.ErrProtocol},
		"ends in the output":  {`{"message":{"message":"YWJj`, link.ErrProtocol},
		"ends in an escape":   {`{"message":{"message":"YWJj\`, link.ErrProtocol},
		"ends in a name":      {`{"mess`, link.ErrProtocol},
		"bytes behind":        {`{"message":{"message":"YQ=="}}x`, link.ErrProtocol},
		"nested":              {strings.Repeat("[", 100), link.ErrProtocol},
		"closed too often":    {`}}}]]]`, link.ErrProtocol},
		"output too large":    {`{"message":{"message":"` + strings.Repeat("YWFh", 1000) + `"}}`, link.ErrTooLarge},
		"rest too large":      {`{"message":{"type":"` + strings.Repeat("a", 1<<20) + `"}}`, link.ErrTooLarge},
		"name too large":      {`{"` + strings.Repeat("a", 1<<20), link.ErrTooLarge},
		"space without end":   {strings.Repeat(" ", 1<<20), link.ErrTooLarge},
	} {
		var v wire.ResultV1
		if err := readResult(strings.NewReader(tc.frame), 100, &v); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	var v wire.ResultV1
	var remote *link.RemoteError
	for _, frame := range []string{`{"error":"quota: full"}`, `{"message":null,"error":"quota: full"}`} {
		if err := readResult(strings.NewReader(frame), 100, &v); !errors.As(err, &remote) || remote.Code != wire.CodeQuota || remote.Text != "full" {
			t.Errorf("%s: %v, want quota", frame, err)
		}
	}
	broken := errors.New("broken")
	for _, begin := range []string{"", `{"mes`, `{"message":{"message":"YWJj`} {
		r := iotest.DataErrReader(&failing{strings.NewReader(begin), broken})
		if err := readResult(r, 100, &v); !errors.Is(err, broken) {
			t.Errorf("read error after %q: %v", begin, err)
		}
	}
}

type failing struct {
	r   *strings.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.r.Len() == 0 {
		return 0, f.err
	}
	return f.r.Read(p)
}

// FuzzReadResult: what is accepted means the same to a decoder of the whole frame.
func FuzzReadResult(f *testing.F) {
	for _, s := range []string{
		`{"message":{"type":"function_result","message":"YWJj","checksums":{"input":"aQ==","function":"Zg==","output":"bw=="},"signed_checksums":"cw=="}}`,
		`{"message":{"message":"YQ==","mess\u0061ge":"Yg=="}}`, `{"message":{"message":"\/\/\/\/"}}`, `{"error":"x"}`, `{"message":{"message":{"message":"YQ=="}}}`,
		`{"message":{},"message":{"message":"YQ=="}}`, `{"a":"\"","message":{"message":""}}`, `[`, `"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var got, want wire.ResultV1
		err := readResult(bytes.NewReader(frame), 1<<20, &got)
		whole := wire.DecodeV1(frame, &want)
		if err != nil {
			return
		}
		if whole != nil {
			t.Fatalf("accepted, but %v", whole)
		}
		if !bytes.Equal(got.Message, want.Message) || got.Type != want.Type || !bytes.Equal(got.SignedChecksums, want.SignedChecksums) || !cmp.Equal(got.Checksums, want.Checksums) {
			t.Fatalf("means something else:\n%+v\n%+v", got, want)
		}
	})
}
