{
  # `npx node-gyp rebuild` gives the same addon as `npm run build:native`: the one real build is native/CMakeLists.txt.
  "targets": [
    {
      "target_name": "stepward",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "message": "Building the addon with cmake-js",
          "inputs": ["native/CMakeLists.txt"],
          "outputs": ["<(PRODUCT_DIR)/stepward.node"],
          "action": ["node", "scripts/build-native.mjs"]
        }
      ]
    }
  ]
}
