package intake

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Names of shared objects: "x.so", "libx.so.3", and Python's own for Windows.
var sharedObject = regexp.MustCompile(`\.so(\.[0-9]+)*$|\.pyd$`)

// versionTag matches the tag of a C extension: "x.cpython-311-x86_64-linux-gnu.so".
var versionTag = regexp.MustCompile(`\.cpython-([0-9])([0-9]+)[a-z]*-([A-Za-z0-9_-]+)\.so$`)

// machines are the ELF machines of platforms the runtime runs on.
var machines = map[string]elf.Machine{"linux-x86_64": elf.EM_X86_64, "linux-aarch64": elf.EM_AARCH64}

// checkBinary refuses a shared object that this enclave could never load. head
// is the beginning of the file.
func (r *Rules) checkBinary(name string, head []byte) error {
	base := path.Base(name)
	if !sharedObject.MatchString(base) || r.Platform == "" {
		return nil
	}
	wrong := func(what string) error {
		return fmt.Errorf("%w: %q is %s; this enclave runs Python %s on %s (cape function vendor fetches what fits)", ErrInvalid, name, what, r.Python, r.Platform)
	}
	if strings.HasSuffix(base, ".pyd") {
		return wrong("for Windows")
	}
	if tag := versionTag.FindStringSubmatch(base); tag != nil && r.Python != "" && tag[1]+"."+tag[2] != r.Python {
		return wrong("for Python " + tag[1] + "." + tag[2])
	}
	if len(head) < 20 || string(head[:4]) != elf.ELFMAG {
		if versionTag.MatchString(base) || len(head) >= 4 && isMachO(head) {
			return wrong("no shared object of Linux")
		}
		return nil // a linker script, or data that merely has such a name
	}
	want, known := machines[r.Platform]
	if got := elf.Machine(binary.LittleEndian.Uint16(head[18:])); known && got != want {
		return wrong("for another processor")
	}
	return nil
}

// isMachO knows the magic numbers of macOS's shared objects.
func isMachO(head []byte) bool {
	switch binary.BigEndian.Uint32(head) {
	case 0xfeedface, 0xfeedfacf, 0xcefaedfe, 0xcffaedfe, 0xcafebabe:
		return true
	}
	return false
}
