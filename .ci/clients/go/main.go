// Sends the cases of a file over grpc-go, each with another set of options, and writes what came back.
//
//	calls ADDRESS CASES.json
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

type unaryCase struct {
	Path string `json:"path"`
	Raw  []byte `json:"raw"`
}

type cases struct {
	Unary  []unaryCase `json:"unary"`
	Frames [][]byte    `json:"frames"`
}

type outcome struct {
	Code    int    `json:"code"`
	Raw     []byte `json:"raw"`
	Details []byte `json:"details"`
}

type session struct {
	Name   string    `json:"name"`
	Unary  []outcome `json:"unary"`
	Frames [][]byte  `json:"frames"`
}

type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func main() {
	address, file := os.Args[1], os.Args[2]
	data, err := os.ReadFile(file)
	must(err)
	var all cases
	must(json.Unmarshal(data, &all))
	variants := []struct {
		name    string
		options []grpc.DialOption
		calls   []grpc.CallOption
	}{
		{"defaults", nil, nil},
		{"windows of 64 KiB, small buffers", []grpc.DialOption{
			grpc.WithInitialWindowSize(65535), grpc.WithInitialConnWindowSize(65535),
			grpc.WithReadBufferSize(0), grpc.WithWriteBufferSize(0),
		}, nil},
		{"large windows, small header lists", []grpc.DialOption{
			grpc.WithInitialWindowSize(1 << 26), grpc.WithInitialConnWindowSize(1 << 26), grpc.WithMaxHeaderListSize(4096),
		}, nil},
		{"gzip", nil, []grpc.CallOption{grpc.UseCompressor("gzip")}},
		{"keepalive pings", []grpc.DialOption{grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: time.Second, PermitWithoutStream: true,
		})}, nil},
		{"wait for ready, long user agent", []grpc.DialOption{
			grpc.WithUserAgent(fmt.Sprintf("%0300d", 1)),
		}, []grpc.CallOption{grpc.WaitForReady(true)}},
	}
	var sessions []session
	for _, variant := range variants {
		options := append([]grpc.DialOption{
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithNoProxy(),
			grpc.WithDefaultCallOptions(append(variant.calls, grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(1<<26))...),
		}, variant.options...)
		connection, err := grpc.NewClient("passthrough:///"+address, options...)
		must(err)
		sessions = append(sessions, session{variant.name, unary(connection, all.Unary), frames(connection, all.Frames)})
		must(connection.Close())
	}
	must(json.NewEncoder(os.Stdout).Encode(sessions))
}

func unary(connection *grpc.ClientConn, all []unaryCase) []outcome {
	outcomes := make([]outcome, len(all))
	limit := make(chan struct{}, 16) // calls in flight
	for index := range all {
		limit <- struct{}{}
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			var answer []byte
			err := connection.Invoke(ctx, all[index].Path, &all[index].Raw, &answer)
			failure := status.Convert(err)
			outcomes[index] = outcome{Code: int(failure.Code()), Raw: answer}
			if err != nil {
				outcomes[index].Details, err = proto.Marshal(failure.Proto())
				must(err)
			}
			<-limit
		}()
	}
	for range cap(limit) {
		limit <- struct{}{}
	}
	return outcomes
}

func frames(connection *grpc.ClientConn, all [][]byte) [][]byte {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	description := grpc.StreamDesc{ServerStreams: true, ClientStreams: true}
	stream, err := connection.NewStream(ctx, &description, "/volcast.v1.InferenceService/StreamPredict")
	must(err)
	go func() {
		for _, frame := range all {
			must(stream.SendMsg(&frame))
		}
		must(stream.CloseSend())
	}()
	var answers [][]byte
	for {
		var answer []byte
		if err := stream.RecvMsg(&answer); err == io.EOF {
			return answers
		} else if err != nil {
			must(err)
		}
		answers = append(answers, answer)
	}
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
