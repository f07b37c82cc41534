package e2e

import (
	"strings"
	"testing"
)

// TestHang: a handler that never returns is ended by the limit of one call, which
// cannot be shortened, and the next request works.
func TestHang(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	t.Parallel()
	p := start(t, t.TempDir())
	id := p.Deploy(function(t, "hang", app("def cape_handler(d):\n    while d == b'hang': pass\n    return d\n")))
	if r := p.Cape("", "run", id, "hang"); r.Code != 1 || r.Out != "" || !strings.Contains(r.Err, "timeout") {
		t.Errorf("%+v", r)
	}
	if got := p.Must("run", id, "next"); got != "next\n" {
		t.Errorf("the next request: %q", got)
	}
}
