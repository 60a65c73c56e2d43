// Protogen generates Go code from .proto files with no protoc and no network:
// it compiles them in process, then runs the plugins pinned in tools/go.mod.
//
// Run it in the tools module:
//
//	go run ./protogen [-out dir] protodir
//
// It compiles the .proto files under protodir, which is also the root of their imports and
// the folder of our module of that name. Of those whose go_package is in that module it
// writes the code to the folder of the package, or to the same place under dir.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// pooled are the messages that can be decoded into again, with what memory they
// have.
const pooled = ",pool=" + api + "ShouldAllowBatchRequest,pool=" + api + "ShouldAllowRequest,pool=" + api + "Limit"

const api = module + "/ratelimit/v1."

// inModule has a plugin write each package to its folder in our module.
const inModule = "module=" + module

const module = "github.com/ratelimitd/ratelimitd/proto"

// plugins are tools of this module, each with its parameter.
var plugins = []struct{ name, parameter string }{
	{"protoc-gen-go", inModule},
	{"protoc-gen-go-grpc", inModule},
	{"protoc-gen-go-vtproto", inModule + ",features=marshal+unmarshal_unsafe+size+pool" + pooled},
}

func main() {
	out := flag.String("out", "", "write under `dir` instead of beside the .proto files")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: protogen [-out dir] protodir")
		os.Exit(2)
	}
	if *out == "" {
		*out = flag.Arg(0)
	}
	if err := run(context.Background(), flag.Arg(0), *out); err != nil {
		fmt.Fprintln(os.Stderr, "protogen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, root, out string) error {
	names, err := protoFiles(root)
	if err != nil {
		return err
	}
	files, err := compile(ctx, root, names)
	if err != nil {
		return err
	}
	for _, p := range plugins {
		// CompilerVersion stays nil: there is no protoc, and so the header of
		// the generated code is the same everywhere.
		generated, err := runPlugin(ctx, p.name, &pluginpb.CodeGeneratorRequest{
			FileToGenerate: own(files),
			Parameter:      &p.parameter,
			ProtoFile:      files,
		})
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := write(out, generated); err != nil {
			return err
		}
	}
	return nil
}

// own returns the names of the files whose code is in our module. The others are there for
// whoever generates a client.
func own(files []*descriptorpb.FileDescriptorProto) []string {
	var names []string
	for _, file := range files {
		if strings.HasPrefix(file.GetOptions().GetGoPackage(), module+"/") {
			names = append(names, file.GetName())
		}
	}
	return names
}

// protoFiles returns the .proto files under root, as slash-separated paths
// relative to it, in lexical order.
func protoFiles(root string) ([]string, error) {
	var names []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(name, ".proto") {
			names = append(names, name)
		}
		return err
	})
	if err == nil && len(names) == 0 {
		err = errors.New("no .proto files")
	}
	if err != nil {
		return nil, fmt.Errorf("looking for .proto files in %q: %w", root, err)
	}
	return names, nil
}

// compile returns the named files and all that they import, each after its own
// imports, as plugins require.
func compile(ctx context.Context, root string, names []string) ([]*descriptorpb.FileDescriptorProto, error) {
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{root}}),
		SourceInfoMode: protocompile.SourceInfoStandard, // or generated code loses its comments
	}
	compiled, err := compiler.Compile(ctx, names...)
	if err != nil {
		return nil, err // gives file, line and column
	}

	var files []*descriptorpb.FileDescriptorProto
	seen := make(map[string]bool)
	var add func(protoreflect.FileDescriptor)
	add = func(file protoreflect.FileDescriptor) {
		if seen[file.Path()] {
			return
		}
		seen[file.Path()] = true
		for i := range file.Imports().Len() {
			add(file.Imports().Get(i).FileDescriptor)
		}
		files = append(files, protoutil.ProtoFromFileDescriptor(file))
	}
	for _, file := range compiled {
		add(file)
	}
	return files, nil
}

func runPlugin(ctx context.Context, name string, request *pluginpb.CodeGeneratorRequest) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	input, err := proto.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("encoding the request: %w", err)
	}
	cmd := exec.CommandContext(ctx, "go", "tool", name)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(output, &response); err != nil {
		return nil, fmt.Errorf("decoding its response: %w", err)
	}
	if response.Error != nil {
		return nil, errors.New(response.GetError())
	}
	return response.GetFile(), nil
}

func write(out string, files []*pluginpb.CodeGeneratorResponse_File) error {
	for _, file := range files {
		path := filepath.Join(out, filepath.FromSlash(file.GetName()))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(file.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
