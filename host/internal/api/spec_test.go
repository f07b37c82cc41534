package api

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"
)

// TestSpecification: spec/control-api.yaml is sound and names exactly the
// routes of this server. What they answer is compared in test/conformance.
func TestSpecification(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromFile(filepath.Join("..", "..", "..", "spec", "control-api.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	var specified []string
	for path, item := range doc.Paths.Map() {
		for method := range item.Operations() {
			specified = append(specified, method+" "+path)
		}
	}
	slices.Sort(specified)
	routes := (&server{}).plain()
	maps.Copy(routes, (&server{}).issuing())
	served := slices.Sorted(maps.Keys(routes))
	served = append(served, sessions...)
	slices.Sort(served)
	if d := cmp.Diff(served, specified); d != "" {
		t.Errorf("routes that are served (-) and specified (+):\n%s", d)
	}
}
