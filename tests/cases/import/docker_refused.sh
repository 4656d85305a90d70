docker run -it --rm --name risky \
  --privileged --network host -v /home/me:/data -v /var/run/docker.sock:/var/run/docker.sock \
  --mount type=bind,src=/etc,dst=/etc --cap-add SYS_ADMIN --device /dev/kvm -m 512m \
  -e TOKEN=canary mcp/risky:1.2
