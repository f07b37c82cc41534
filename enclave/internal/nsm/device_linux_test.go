package nsm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestIoctlNumber(t *testing.T) {
	// _IOWR(0x0A, 0, 32 bytes) of asm-generic/ioctl.h, as strace shows it in an enclave.
	if ioctlRaw != 0xc0200a00 {
		t.Errorf("%#x", uint(ioctlRaw))
	}
}

// A file that is no module answers the ioctl with an error, never with bytes.
func TestDeviceThatIsNone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nsm")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tr, err := openDevice(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		req  []byte
		want error
	}{
		{"request", []byte{0x60}, ErrTransport},
		{"empty request", nil, ErrTooLarge},
		{"large request", make([]byte, MaxRequest+1), ErrTooLarge},
	} {
		if b, err := tr.Exchange(tc.req); b != nil || !errors.Is(err, tc.want) {
			t.Errorf("%s: %d bytes, %v", tc.name, len(b), err)
		}
	}
	if err := tr.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := tr.Exchange([]byte{0x60}); !errors.Is(err, ErrTransport) {
		t.Errorf("after Close: %v", err)
	}
}
