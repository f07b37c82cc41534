// Package sbom writes what an image is made of as an SPDX 2.3 document in JSON (https://spdx.github.io/spdx-spec/v2.3/).
package sbom

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/cape-functions/cape/image/internal/lock"
)

// Image is what the document is about.
type Image struct {
	Name, Version string
	SHA256        string // of the file, hex
	Created       time.Time
	Debian        []lock.Package
	Kernel        lock.Package // its source
	Runtime       *buildinfo.BuildInfo
}

type document struct {
	Version       string         `json:"spdxVersion"`
	License       string         `json:"dataLicense"`
	ID            string         `json:"SPDXID"`
	Name          string         `json:"name"`
	Namespace     string         `json:"documentNamespace"`
	Creation      creation       `json:"creationInfo"`
	Packages      []spdxPackage  `json:"packages"`
	Relationships []relationship `json:"relationships"`
}

type creation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID       string     `json:"SPDXID"`
	Name     string     `json:"name"`
	Version  string     `json:"versionInfo,omitempty"`
	Supplier string     `json:"supplier,omitempty"`
	Location string     `json:"downloadLocation"`
	Analyzed bool       `json:"filesAnalyzed"`
	Sums     []checksum `json:"checksums,omitempty"`
	Refs     []ref      `json:"externalRefs,omitempty"`
}

type checksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type ref struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type relationship struct {
	Of   string `json:"spdxElementId"`
	Kind string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	documentID  = "SPDXRef-DOCUMENT"
	imageID     = "SPDXRef-image"
	noAssertion = "NOASSERTION"
)

// Write writes the document.
func Write(w io.Writer, i Image) error {
	d := document{
		Version: "SPDX-2.3", License: "CC0-1.0", ID: documentID, Name: i.Name,
		Namespace: "https://github.com/cape-functions/cape/sbom/" + i.Name + "/" + i.SHA256,
		Creation:  creation{Created: i.Created.UTC().Format(time.RFC3339), Creators: []string{"Tool: mkimage"}},
	}
	d.add(spdxPackage{ID: imageID, Name: i.Name, Version: i.Version, Sums: sums(i.SHA256)})
	d.relate(documentID, "DESCRIBES", imageID)
	d.addDebian(i.Kernel, "GENERATED_FROM")
	for _, p := range i.Debian {
		d.addDebian(p, "CONTAINS")
	}
	d.addGo(i.Runtime)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(d)
}

func sums(sha256 string) []checksum { return []checksum{{"SHA256", sha256}} }

func (d *document) add(p spdxPackage) {
	p.Location = noAssertion
	d.Packages = append(d.Packages, p)
}

func (d *document) relate(of, kind, to string) {
	d.Relationships = append(d.Relationships, relationship{of, kind, to})
}

func (d *document) addDebian(p lock.Package, kind string) {
	id := reference("deb", p.Name)
	d.add(spdxPackage{
		ID: id, Name: p.Name, Version: p.Version, Supplier: "Organization: Debian", Sums: sums(p.SHA256),
		Refs: purl(fmt.Sprintf("pkg:deb/debian/%s@%s?arch=%s", url.PathEscape(p.Name), url.QueryEscape(p.Version), p.Arch)),
	})
	d.relate(imageID, kind, id)
}

// addGo adds the toolchain, whose standard library is in the binary, and every module.
func (d *document) addGo(b *buildinfo.BuildInfo) {
	id := reference("go", "stdlib")
	version := strings.TrimPrefix(b.GoVersion, "go")
	d.add(spdxPackage{ID: id, Name: "stdlib", Version: version, Refs: purl("pkg:golang/stdlib@" + version)})
	d.relate(imageID, "CONTAINS", id)
	for _, m := range b.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		id := reference("go", m.Path)
		d.add(spdxPackage{ID: id, Name: m.Path, Version: m.Version, Refs: purl("pkg:golang/" + m.Path + "@" + m.Version)})
		d.relate(imageID, "CONTAINS", id)
	}
}

func purl(locator string) []ref { return []ref{{"PACKAGE-MANAGER", "purl", locator}} }

var notInID = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

func reference(kind, name string) string {
	return "SPDXRef-" + kind + "-" + notInID.ReplaceAllString(name, "-")
}
