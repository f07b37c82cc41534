package rootfs

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"

	"github.com/cape-functions/cape/image/internal/cpio"
)

// CheckLinks makes sure that every program and library in the tree finds the libraries it asks for, and that no symlink
// leads nowhere.
func (t *Tree) CheckLinks() error {
	for _, name := range t.names() {
		e := t.files[name]
		if e.Mode&^0o7777 == cpio.Symlink && t.lookup(name) == nil {
			return fmt.Errorf("%w: %s leads to %s, which is not there", ErrTree, name, e.Data)
		}
		if e.Mode&^0o7777 != cpio.Regular || !bytes.HasPrefix(e.Data, []byte(elf.ELFMAG)) {
			continue
		}
		f, err := elf.NewFile(bytes.NewReader(e.Data))
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrTree, name, err)
		}
		needed, err := f.ImportedLibraries()
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrTree, name, err)
		}
		for _, lib := range needed {
			if t.lookup(path.Join(libraries, lib)) == nil {
				return fmt.Errorf("%w: %s needs %s, which is not there", ErrTree, name, lib)
			}
		}
	}
	return nil
}
