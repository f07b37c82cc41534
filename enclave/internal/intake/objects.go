package intake

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
)

// machines are the ELF machines of the platforms a runtime may run on.
var machines = map[string]elf.Machine{
	"linux-x86_64":  elf.EM_X86_64,
	"linux-aarch64": elf.EM_AARCH64,
}

// machO are the first four bytes of what macOS loads.
var machO = []uint32{0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe, 0xcafebabe, 0xcafebabf}

// lenELF is the part of an ELF header that says what it is for.
const lenELF = 20

// extension matches the interpreter's tag in the name of a C extension:
// "_ext.cpython-311-x86_64-linux-gnu.so", "_ext.pypy39-pp73-….so".
var extension = regexp.MustCompile(`\.(cpython-(\d)(\d+)([a-z]*)|pypy\d*)[^.]*\.so$`)

const advice = `; fetch the packages for the enclave's Python with "cape function vendor"`

// checkObject refuses a shared object that this runtime could never load. It
// returns a reader that yields the whole content again.
func checkObject(r Rules, name string, content io.Reader) (io.Reader, error) {
	if r.Python == "" || r.Platform == "" {
		return content, nil
	}
	base := path.Base(name)
	if strings.HasSuffix(base, ".pyd") {
		return nil, refuse("%s is a C extension for Windows, but this enclave is %s"+advice, name, r.Platform)
	}
	if !strings.HasSuffix(base, ".so") && !strings.Contains(base, ".so.") {
		return content, nil
	}
	if tag := extension.FindStringSubmatch(base); tag != nil && tag[2]+"."+tag[3]+tag[4] != r.Python {
		return nil, refuse("%s is built for another Python (%s) than this enclave's (%s)"+advice, name, strings.TrimPrefix(tag[1], "cpython-"), r.Python)
	}
	head := make([]byte, lenELF)
	n, err := io.ReadFull(content, head)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if problem := foreign(head[:n], r.Platform); problem != "" {
		return nil, refuse("%s is %s, but this enclave is %s"+advice, name, problem, r.Platform)
	}
	return io.MultiReader(bytes.NewReader(head[:n]), content), nil
}

// foreign says what an object is built for when that is not the platform. What
// is no object at all, a linker script or a text, may stay.
func foreign(head []byte, platform string) string {
	want, known := machines[platform]
	switch {
	case len(head) >= 4 && slices.Contains(machO, binary.BigEndian.Uint32(head)):
		return "built for macOS"
	case len(head) < lenELF || !bytes.HasPrefix(head, []byte(elf.ELFMAG)) || !known:
		return ""
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	got := elf.Machine(order.Uint16(head[18:]))
	if got == want && elf.Class(head[elf.EI_CLASS]) == elf.ELFCLASS64 && elf.Data(head[elf.EI_DATA]) == elf.ELFDATA2LSB {
		return ""
	}
	return "built for another processor (" + strings.ToLower(strings.TrimPrefix(got.String(), "EM_")) + ")"
}
