package main

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// TestGoogleFilesAreThoseOfGoogle holds the copies of Google's files that we ship to those in
// Google's own packages: a client that is generated from ours may be linked with those.
func TestGoogleFilesAreThoseOfGoogle(t *testing.T) {
	for _, theirs := range []protoreflect.FileDescriptor{status.File_google_rpc_status_proto, errdetails.File_google_rpc_error_details_proto} {
		files, err := compile(t.Context(), "../../proto", []string{theirs.Path()})
		if err != nil {
			t.Fatal(err)
		}
		ours, want := files[len(files)-1], protodesc.ToFileDescriptorProto(theirs)
		ours.SourceCodeInfo = nil
		if !proto.Equal(ours, want) {
			t.Errorf("ours is\n%s\nand Google's is\n%s", prototext.Format(ours), prototext.Format(want))
		}
	}
}
