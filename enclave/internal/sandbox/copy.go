package sandbox

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// treeSize returns what a copy of dir needs on a tmpfs.
func treeSize(dir string) (uint64, error) {
	var total uint64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		total += 4096
		if info.Mode().IsRegular() {
			total += (uint64(info.Size()) + 4095) &^ 4095
		}
		return nil
	})
	return total, err
}

// copyTree copies the content of from into to, which exists, and gives it to
// the user id. A tree that intake unpacked has only files and folders; anything
// else ends the copy.
func copyTree(from, to string, id int) error {
	src, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	return fs.WalkDir(src.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == ".":
			return nil
		case d.IsDir():
			err = dst.Mkdir(path, 0o755)
		case d.Type().IsRegular():
			err = copyFile(src, dst, path)
		default:
			return fmt.Errorf("neither a file nor a folder: %s", path)
		}
		if err != nil {
			return err
		}
		return dst.Lchown(path, id, id)
	})
}

func copyFile(src, dst *os.Root, path string) (err error) {
	in, err := src.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := dst.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
