package eif_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/image/eif"
)

// peer builds the program around AWS's library with cargo, once per version of both. Only
// the full test suite does: the first build takes minutes.
func peer(t *testing.T) string {
	t.Helper()
	if os.Getenv("CAPE_TEST_FULL") == "" {
		t.Skip("part of the full test suite: CAPE_TEST_FULL=1")
	}
	if _, err := exec.LookPath("cargo"); err != nil {
		t.Skip("AWS's own library is not asked: install Rust's cargo, pkg-config and libssl-dev")
	}
	cmd := exec.CommandContext(t.Context(), "bash", filepath.Join("testdata", "peer", "build.sh"))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("building the program around AWS's library: %v\n%s", err, stderr.String())
	}
	return string(bytes.TrimSpace(out))
}

type peerAnswer struct {
	Measurements                                 map[string]string
	CheckCRC, IsSigned, SignatureCheck, Metadata bool
}

func ask(t *testing.T, program string, args ...string) peerAnswer {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput()
	var a peerAnswer
	if err == nil {
		err = json.Unmarshal(out, &a)
	}
	if err != nil {
		t.Fatalf("AWS's library: %v\n%s", err, out)
	}
	if a.Measurements["HashAlgorithm"] == "" {
		t.Error("it names no algorithm")
	}
	a.Measurements["HashAlgorithm"] = eif.HashAlgorithm // it prints its own type's name
	return a
}

// What we write, AWS's library reads, with the same measurements, and what it writes is what
// we write.
func TestAWSLibrary(t *testing.T) {
	program := peer(t)
	for ramdisks := 1; ramdisks <= 3; ramdisks++ {
		p := parts(t, ramdisks)
		p.Name, p.Version = "x", "1"
		image, m := write(t, p)
		file := filepath.Join(t.TempDir(), "image.eif")
		if err := os.WriteFile(file, image, 0o600); err != nil {
			t.Fatal(err)
		}
		want := peerAnswer{Measurements: m.Map(), CheckCRC: true, Metadata: true}
		if diff := cmp.Diff(want, ask(t, program, "describe", file)); diff != "" {
			t.Error(diff)
		}
		theirs := filepath.Join(t.TempDir(), "theirs.eif")
		args := []string{"build", theirs, "testdata/kernel.bin", cmdline, "testdata/ramdisk-1.bin", "testdata/ramdisk-2.bin", "testdata/ramdisk-3.bin"}
		ask(t, program, args[:4+ramdisks]...)
		if b, err := os.ReadFile(theirs); err != nil || !bytes.Equal(b, image) {
			t.Errorf("with %d ramdisks it writes another image (%v)", ramdisks, err)
		}
		signed := create(t)
		i, err := eif.Sign(t.Context(), signed, bytes.NewReader(image), int64(len(image)), currentSigner(t, elliptic.P384()))
		if err != nil {
			t.Fatal(err)
		}
		want = peerAnswer{Measurements: i.Measurements.Map(), CheckCRC: true, IsSigned: true, SignatureCheck: true, Metadata: true}
		if diff := cmp.Diff(want, ask(t, program, "describe", signed.Name())); diff != "" {
			t.Error(diff)
		}
	}
}
