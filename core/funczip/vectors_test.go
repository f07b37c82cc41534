package funczip_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/funczip"
	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// class names an error as spec/zip.md does.
func class(err error) string {
	for name, sentinel := range map[string]error{
		"empty": funczip.ErrEmpty, "too_large": funczip.ErrTooLarge, "link": funczip.ErrLink,
		"irregular": funczip.ErrIrregular, "name": funczip.ErrName,
	} {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	if err == nil {
		return vectors.OK
	}
	return "another: " + err.Error()
}

func TestVectors(t *testing.T) {
	all, err := vectors.Read("../../spec/vectors", vectors.KindZip)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		t.Run(s.Name, func(t *testing.T) {
			var in vectors.ZipInput
			if err := vectors.Decode(s.Input, &in); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			_, err := funczip.Write(&out, folder(in.Files), in.Top, funczip.Options{MaxBytes: in.MaxBytes, MaxFiles: in.MaxFiles})
			if class(err) != s.Want {
				t.Fatalf("%s, want %s", class(err), s.Want)
			}
			if err != nil {
				return
			}
			sum := sha256.Sum256(out.Bytes())
			var want vectors.ZipOutput
			if err := vectors.Decode(s.Output, &want); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, vectors.ZipOutput{Zip: out.Bytes(), SHA256: sum[:]}); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func folder(files []vectors.File) fs.FS {
	fsys := make(fstest.MapFS)
	for _, f := range files {
		switch {
		case f.Folder:
			fsys[f.Path] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		case f.Link != "":
			fsys[f.Path] = link(f.Link)
		default:
			fsys[f.Path] = file(string(*f.Content))
		}
	}
	return fsys
}
