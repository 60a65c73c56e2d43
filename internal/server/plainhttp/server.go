// Package plainhttp answers the usual requests for one path without net/http.
//
// For each request net/http starts a goroutine that waits for its client to go away, ends it
// again, and moves eight deadlines. That takes longer than most handlers. Here the goroutine of
// a connection reads a request, has it handled and writes the answer, as long as plain requests
// come: see request. With anything else, the connection is net/http's for the rest of its life.
// So all that is doubtful is judged there. The answers are the same, byte for byte.
//
// A difference is that the context of a request does not end when its client goes away.
package plainhttp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
)

// A Server is an http.Server that answers plain requests for one path itself, unless it has
// TLS. New makes it.
type Server struct {
	route
	serving sync.WaitGroup

	mu    sync.Mutex // protects the following
	conns map[*conn]struct{}
}

// New returns a Server that answers plain requests to POST to path. The timeouts and the
// ErrorLog of h must be set; they are for these requests too. For these its Handler has to set
// Content-Type, and must set neither Date nor Connection nor what says how long an answer is.
func New(h *http.Server, path string) *Server {
	return &Server{route: route{Server: h, path: path}, conns: map[*conn]struct{}{}}
}

// Serve serves until Shutdown or Close is called, or l fails.
func (s *Server) Serve(l net.Listener) error {
	if s.TLSConfig != nil {
		return s.ServeTLS(l, "", "")
	}
	r := &rest{Listener: l, conns: make(chan net.Conn), ended: make(chan struct{})}
	ctx := context.Background()
	if s.BaseContext != nil {
		ctx = s.BaseContext(l)
	}
	go func() {
		defer close(r.ended)
		r.err = s.accept(ctx, r)
	}()
	err := s.Server.Serve(r)
	<-r.ended
	return err
}

// accept serves the connections that come, until there can be no more.
func (s *Server) accept(ctx context.Context, r *rest) error {
	for {
		raw, err := r.Listener.Accept()
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		c := newConn(ctx, &s.route, raw)
		if !s.enter(c) {
			_ = raw.Close()
			continue
		}
		go func() {
			left := c.serve()
			s.leave(c)
			if left != nil {
				r.give(left)
			}
		}()
	}
}

// enter has c count as served, unless the server is to stop.
func (s *Server) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return false
	}
	s.serving.Add(1)
	s.conns[c] = struct{}{}
	return true
}

// leave undoes enter.
func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	s.serving.Done()
}

// each calls do for each connection that is served here. No further one is.
func (s *Server) each(do func(*conn)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining.Store(true)
	for c := range s.conns {
		do(c)
	}
}

// Shutdown takes no new connections, and waits for the requests under way until ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	s.each((*conn).wake)
	err := s.Server.Shutdown(ctx)
	answered := make(chan struct{})
	go func() { s.serving.Wait(); close(answered) }()
	select {
	case <-answered:
		return err
	case <-ctx.Done():
		return errors.Join(err, ctx.Err())
	}
}

// Close closes everything at once.
func (s *Server) Close() error {
	err := s.Server.Close()
	s.each(func(c *conn) { _ = c.Close() })
	return err
}

// The rest is a listener whose connections are those with something else than plain requests.
type rest struct {
	net.Listener
	conns chan net.Conn
	ended chan struct{} // closed when no more come
	err   error         // then: why
}

// Accept implements net.Listener.
func (r *rest) Accept() (net.Conn, error) {
	select {
	case c := <-r.conns:
		return c, nil
	case <-r.ended:
		return nil, r.err
	}
}

// give has Accept return c.
func (r *rest) give(c net.Conn) {
	select {
	case r.conns <- c:
	case <-r.ended:
		_ = c.Close()
	}
}
