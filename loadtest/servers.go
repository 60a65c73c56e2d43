package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// programs are those to measure, in files.
type programs struct {
	dir   string            // has those that build has built
	peers map[string]string // of other services, by name
}

// build builds our programs, and writes the files that programs read.
func (all *programs) build(ctx context.Context) error {
	for _, name := range []string{"./cmd/ratelimitd", "./loadtest"} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags=grpcnotrace", "-ldflags=-s -w", "-o", all.dir+string(filepath.Separator), name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w; run this command in the root of the repository\n%s", name, err, text)
		}
	}
	files := filepath.Join(all.dir, "files")
	if err := os.MkdirAll(filepath.Join(files, "config"), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(files, "config", "loadtest.yaml"), []byte(envoyConfig), 0o644),
		os.WriteFile(filepath.Join(files, "limitador.yaml"), []byte(limitadorConfig), 0o644))
}

// A runningServer is a process, together with its store and files.
type runningServer struct {
	grpc, http, resp, store string
	program                 program
	stops                   []func()
}

func (p *runningServer) stop() {
	for _, stop := range slices.Backward(p.stops) {
		stop()
	}
}

// start starts a program, and the store that it needs.
func (all *programs) start(ctx context.Context, s program) (p *runningServer, err error) {
	p = &runningServer{program: s}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()
	launch := func(addrs []string, command ...string) error {
		stop, err := startServer(ctx, command, addrs, io.Discard)
		if err != nil {
			return fmt.Errorf("%q: %w", command, err)
		}
		p.stops = append(p.stops, stop)
		return nil
	}
	port := func(addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		return port
	}
	addrs, err := freeAddrs(4)
	if err != nil {
		return p, err
	}
	p.grpc, p.http, p.resp = addrs[0], addrs[1], addrs[3]
	if s.store != "" {
		p.store = addrs[2]
		command := []string{"redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port", port(p.store)}
		if s.store == "memcached" {
			command = []string{"memcached", "-u", "nobody", "-l", "127.0.0.1", "-p", port(p.store)}
		}
		if err := launch([]string{p.store}, command...); err != nil {
			return p, err
		}
	}
	fill := strings.NewReplacer("{grpc}", p.grpc, "{http}", p.http, "{resp}", p.resp,
		"{grpc-port}", port(p.grpc), "{http-port}", port(p.http), "{resp-port}", port(p.resp),
		"{store}", p.store, "{files}", filepath.Join(all.dir, "files"))
	command := strings.Fields(fill.Replace(s.command))
	if s.peer != "" {
		command = append([]string{all.peers[s.peer]}, command...)
	} else {
		command[0] = filepath.Join(all.dir, command[0])
	}
	if s.env != "" {
		command = slices.Concat([]string{"env"}, strings.Fields(fill.Replace(s.env)), command)
	}
	listens := []string{p.grpc, p.http}
	if text := s.command + s.env; strings.Contains(text, "{resp}") || strings.Contains(text, "{resp-port}") {
		listens = append(listens, p.resp)
	}
	return p, launch(listens, command...)
}

// freeAddrs returns n addresses of the loopback interface on which nobody listens.
func freeAddrs(n int) ([]string, error) {
	addrs := make([]string, n)
	for i := range addrs {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }() // at the end, so that all addresses differ
		addrs[i] = l.Addr().String()
	}
	return addrs, nil
}
