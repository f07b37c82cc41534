package fleet

import (
	"context"
	"net"
	"net/http"
	"strings"
)

// Router sends session routes to workers: a WebSocket client that is no browser
// goes to its worker by 307 when that has a public URL, everything else is piped.
type Router struct {
	Roster *Roster
	// Pipe carries a connection; its Dial must be Router.Dial.
	Pipe http.Handler
}

type routeKey struct{}

// ServeHTTP implements http.Handler.
func (r *Router) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	key := req.URL.Path
	if strings.EqualFold(req.Header.Get("Upgrade"), "websocket") && req.Header.Get("Origin") == "" {
		if order := r.Roster.Order(req.Context(), key); len(order) > 0 && order[0].URL != "" {
			w.Header().Set("Location", strings.TrimSuffix(order[0].URL, "/")+req.URL.RequestURI())
			w.WriteHeader(http.StatusTemporaryRedirect)
			return
		}
	}
	r.Pipe.ServeHTTP(w, req.WithContext(context.WithValue(req.Context(), routeKey{}, key)))
}

// Dial connects to the worker for the request whose context it gets.
func (r *Router) Dial(ctx context.Context) (net.Conn, error) {
	key, _ := ctx.Value(routeKey{}).(string)
	return r.Roster.Dial(ctx, key)
}
