package main

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"

	"github.com/cape-functions/cape/tools/vectorgen/vectors"
)

// echoSource is the smallest echo; with it the zip has the checksum that the
// original published for its own.
const echoSource = "def cape_handler(message):\n    return message\n"

func file(path, content string) vectors.File {
	data := []byte(content)
	return vectors.File{Path: path, Content: &data}
}

func link(path, target string) vectors.File { return vectors.File{Path: path, Link: target} }

// zipOf writes entries in the order in which they are given.
func zipOf(s *set, entries ...vectors.File) vectors.ZipOutput {
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, e := range entries {
		dst, err := w.Create(e.Path)
		s.check(err)
		_, err = dst.Write(*e.Content)
		s.check(err)
	}
	s.check(w.Close())
	sum := sha256.Sum256(out.Bytes())
	return vectors.ZipOutput{Zip: out.Bytes(), SHA256: sum[:]}
}

func zips(s *set, _ *keyring) {
	app := file("app.py", echoSource)
	in := func(files ...vectors.File) vectors.ZipInput { return vectors.ZipInput{Top: "fn", Files: files} }

	s.ok("published-echo", "The original published this zip's checksum.",
		vectors.ZipInput{Top: "echo", Files: []vectors.File{app}}, zipOf(s, file("echo/app.py", echoSource)))
	s.ok("order", "Entries are in the order of a walk that sorts each folder by name.",
		in(file("b.txt", "b"), app, file("a/z.txt", "z"), file("a.txt", "a"), file("a/.hidden", "h"), vectors.File{Path: "empty", Folder: true}),
		zipOf(s, file("fn/a/.hidden", "h"), file("fn/a/z.txt", "z"), file("fn/a.txt", "a"), file("fn/app.py", echoSource), file("fn/b.txt", "b")))
	s.ok("empty-file-and-unicode", "An empty file, and a name that is not ASCII.",
		in(app, file("pkg/__init__.py", ""), file("ünï.txt", "ü")),
		zipOf(s, file("fn/app.py", echoSource), file("fn/pkg/__init__.py", ""), file("fn/ünï.txt", "ü")))
	long := string(slices.Repeat([]byte("compressible text. "), 10000))
	s.ok("long-file", "A file longer than the window of Deflate.",
		in(app, file("long.txt", long)), zipOf(s, file("fn/app.py", echoSource), file("fn/long.txt", long)))
	s.ok("links-inside", "Links to files within the folder stand for their content.",
		in(app, link("l1", "lib/x.py"), link("lib/l2", "../app.py"), file("lib/x.py", "x")),
		zipOf(s, file("fn/app.py", echoSource), file("fn/l1", "x"), file("fn/lib/l2", echoSource), file("fn/lib/x.py", "x")))
	s.ok("exactly-the-limit", "As many bytes and files as allowed.",
		vectors.ZipInput{Top: "fn", MaxBytes: 2, MaxFiles: 2, Files: []vectors.File{file("a", "1"), file("b", "2")}},
		zipOf(s, file("fn/a", "1"), file("fn/b", "2")))

	s.fail("no-files", "An empty folder.", in(), "empty")
	s.fail("only-folders", "Folders without a file.", in(vectors.File{Path: "a/b", Folder: true}), "empty")
	s.fail("too-many-bytes", "One byte more than allowed.",
		vectors.ZipInput{Top: "fn", MaxBytes: 2, Files: []vectors.File{file("a", "12"), file("b", "3")}}, "too_large")
	s.fail("too-many-files", "One file more than allowed.",
		vectors.ZipInput{Top: "fn", MaxFiles: 1, Files: []vectors.File{file("a", "1"), file("b", "2")}}, "too_large")
	s.fail("link-absolute", "A link to an absolute path.", in(app, link("l", "/etc/passwd")), "link")
	s.fail("link-absolute-inside", "A link to an absolute path that exists below the folder.", in(app, link("l", "/app.py")), "link")
	s.fail("link-outside-same-name", "A link out of the folder, to a name that is also within.", in(app, link("l", "../app.py")), "link")
	s.fail("link-outside", "A link that leads out of the folder.", in(app, link("a/l", "../../secret")), "link")
	s.fail("link-outside-and-back", "A link that leads out and back in.", in(app, link("l", "../fn/app.py")), "link")
	s.fail("link-to-nowhere", "A link to a file that is not there.", in(app, link("l", "none")), "link")
	s.fail("link-in-a-circle", "Two links to each other.", in(app, link("l", "m"), link("m", "l")), "link")
	s.fail("link-to-a-folder", "A link to a folder.", in(app, file("lib/x.py", "x"), link("l", "lib")), "link")
	s.fail("backslash", "A backslash in a name.", in(app, file(`a\b`, "x")), "name")
	s.fail("control-character", "A line break in a name.", in(app, file("a\nb", "x")), "name")
	s.fail("long-name", "A name of 256 bytes.", in(app, file(strings.Repeat("n", 256), "x")), "name")
	s.fail("deep-path", "A path of 65 names.", in(app, file(strings.Repeat("d/", 63)+"f", "x")), "name")
	s.fail("top-is-empty", "A top folder without a name.", vectors.ZipInput{Files: []vectors.File{app}}, "name")
	s.fail("top-is-dot-dot", "A top folder that is a way.", vectors.ZipInput{Top: "..", Files: []vectors.File{app}}, "name")
	s.fail("top-is-a-path", "A top folder within another.", vectors.ZipInput{Top: "a/b", Files: []vectors.File{app}}, "name")
}
