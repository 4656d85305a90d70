docker run -i --rm -v claude-memory:/app/dist mcp/memory
