package qemu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// probeWithin is how long a guest on KVM may take to its first program; it takes less than
// a second. On a host whose KVM is none it dies at once or hangs.
const probeWithin = 5 * time.Second

// proof is what that program says. Nothing else in a guest does.
const proof = "cape: this guest reached user space"

// accelerator returns "kvm" where a guest with this kernel really gets to user space on it, else "tcg".
// That /dev/kvm is there proves nothing on nested hosts.
func accelerator(ctx context.Context, t tools, kernel, dir string, log *slog.Logger) string {
	if !usable(kvmDevice) {
		return "tcg"
	}
	began := time.Now()
	if err := probe(ctx, t, kernel, dir); err != nil {
		log.Info("KVM does not boot a guest here: enclaves run slower, on TCG", "reason", err, "probe", time.Since(began).Round(time.Millisecond))
		return "tcg"
	}
	return "kvm"
}

var errNoProof = errors.New("no guest reached user space")

func probe(ctx context.Context, t tools, kernel, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	ramdisk := filepath.Join(dir, "probe")
	if err := os.WriteFile(ramdisk, probeRamdisk(), 0o600); err != nil {
		return err
	}
	args := append(machine("kvm", 256, 1), "-kernel", kernel, "-initrd", ramdisk, "-append", "console=ttyS0 panic=-1 reboot=t")
	cmd := exec.CommandContext(ctx, t.qemu, args...)
	cmd.Env, cmd.Dir = []string{}, "/"
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	found := false
	lines := bufio.NewScanner(out)
	for !found && lines.Scan() {
		found = strings.Contains(lines.Text(), proof)
	}
	cancel()
	err = cmd.Wait()
	if found {
		return nil
	}
	return fmt.Errorf("%w: %w", errNoProof, errors.Join(err, lines.Err()))
}

// probeRamdisk is a cpio archive (newc) whose /init is a program of a few instructions.
func probeRamdisk() []byte {
	var b bytes.Buffer
	entry := func(name string, mode int, content []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + "\x00")
		pad(&b)
		b.Write(content)
		pad(&b)
	}
	entry("init", 0o100755, probeProgram())
	entry("TRAILER!!!", 0, nil)
	return b.Bytes()
}

func pad(b *bytes.Buffer) { b.Write(make([]byte, -b.Len()&3)) }

// probeProgram is an ELF file for x86-64 that writes the proof and waits.
func probeProgram() []byte {
	const base, head = 0x400000, 64 + 56
	code := []byte{
		0xb8, 1, 0, 0, 0, // mov eax, 1 (write)
		0xbf, 1, 0, 0, 0, // mov edi, 1
		0x48, 0x8d, 0x35, 16, 0, 0, 0, // lea rsi, [rip+16]
		0xba, byte(len(proof) + 1), 0, 0, 0, // mov edx, length
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // mov eax, 34 (pause)
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp back to the mov
	}
	code = append(code, proof+"\n"...)
	size := uint64(head + len(code))
	le := binary.LittleEndian
	b := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	b = le.AppendUint16(b, 2)         // executable
	b = le.AppendUint16(b, 62)        // x86-64
	b = le.AppendUint32(b, 1)         // version
	b = le.AppendUint64(b, base+head) // entry
	b = le.AppendUint64(b, 64)        // program headers
	b = le.AppendUint64(b, 0)         // no section headers
	b = le.AppendUint32(b, 0)         // flags
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1) // PT_LOAD
	b = le.AppendUint32(b, 5) // readable, executable
	for _, v := range []uint64{0, base, base, size, size, 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}
